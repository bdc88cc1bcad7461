"""hf-json: all arguments as one flat object in Hugging Face's convention; the trainer reads it."""

import json

from advisor.arguments import arguments_for
from advisor.recommendation import Recommendation

FILENAME = "args.json"


def render(recommendation: Recommendation) -> str:
    """The text of args.json: model, data, then TrainingArguments in the order of the class."""
    return json.dumps(arguments_for(recommendation), indent=2, ensure_ascii=False) + "\n"
