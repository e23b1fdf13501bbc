"""Renders the Helm chart as `helm template` does, and lints it as `helm lint --strict` does.

helm-template.py CHART RELEASE [VALUES.yaml | JSON]...   (later values win)

Prints {"manifests": [...], "notes": TEXT}, or {"error": TEXT} if Helm refuses the values. Helm itself
is the library inside helm-python-sdk.
"""

import json
import sys

import yaml
from helm_python import Chart, HelmError, chart


def merged(base, other):
    """Merges values as several `-f` do: mappings by key, all else replaced."""
    if not (isinstance(base, dict) and isinstance(other, dict)):
        return other
    return base | {key: merged(base.get(key), value) for key, value in other.items()}


def main():
    path, release, *sources = sys.argv[1:]
    values = {}
    for source in sources:
        values = merged(values, json.loads(source) if source.startswith("{") else yaml.safe_load(open(source)))
    try:
        with Chart.load(path) as loaded:
            rendered = loaded.render(values, name=release, namespace="hookstile")
    except HelmError as error:
        print(json.dumps({"error": str(error)}))
        return
    found = chart.lint(path, values, strict=True, namespace="hookstile")
    # 1 is "info", such as a missing icon.
    bad = [message for message in found["messages"] if message["severity"] > 1]
    assert not bad and not found["errors"], found
    manifests, notes = [], ""
    for name, text in sorted(rendered.items()):
        if name.endswith("NOTES.txt"):
            notes = text
        else:
            manifests += [document for document in yaml.safe_load_all(text) if document]
    print(json.dumps({"manifests": manifests, "notes": notes}))


main()
