"""What hangs in the host's dictionaries during a run, when another node copies them and calls the model from the copy.

Some packs do `copy.deepcopy(model_options)` in mid-run.  A copied guard would drag the model along and write another
run's report, so that which watches a run stays one object in every copy.  A deep copy of a bound method is bound to the
copy of its object: it is enough that the object refuses.  Conds (`Marker`, `Issued`) are plain tensors and are copied:
prompts are known by their content.
"""


class Uncopied:
    """One object, in the original and in every copy."""

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self
