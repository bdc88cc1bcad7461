"""training-arguments-json: TrainingArguments alone, so that any script can read it."""

import json

from advisor.arguments import training_arguments_for
from advisor.recommendation import Recommendation


def render(recommendation: Recommendation) -> str:
    """A flat object that TrainingArguments takes as keywords, in the order of the class."""
    values = training_arguments_for(recommendation)
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
