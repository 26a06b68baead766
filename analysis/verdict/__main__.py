"""``python -m analysis.verdict``: the format of ``verdict.json`` as JSON Schema."""

import json

from analysis.verdict.schema import Verdict

if __name__ == "__main__":
    print(json.dumps(Verdict.model_json_schema(), indent=1))
