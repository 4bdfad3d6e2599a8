"""Code that the experiment scripts share: arguments, models, selections, results, figures."""
