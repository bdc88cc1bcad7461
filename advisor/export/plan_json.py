"""plan-json: the whole answer, as `Recommendation.from_dict` reads it back."""

import json

from advisor.recommendation import Recommendation

FILENAME = "plan.json"


def render(recommendation: Recommendation) -> str:
    """The text of plan.json, with the reasons in English."""
    content = recommendation.to_dict()
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
