"""stub"""
from typing import Any
class Merge: 
    name="x"
def resolve_merge(merge: Any, data: bool) -> Any:
    return None
def merge_into(*a: Any) -> None: ...
