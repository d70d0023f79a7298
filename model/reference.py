"""The public name of `model.published.convert_reference_state`."""

from model.published import convert_reference_state as convert_reference_state
