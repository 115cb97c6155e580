"""The rules of deploy/prometheus, which promtool tests, as the object the operator reads.

    python -m tests.kubernetes.prometheus_rule     writes k8s/components/monitoring anew

kustomize cannot put a file into a field, so the rules are copied; a test compares the two.
"""

import yaml

from tests.kubernetes.manifests import K8S
from tests.pod import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
TARGET = K8S / "components" / "monitoring" / "prometheusrule.yaml"

HEAD = """\
# The rules of deploy/prometheus/rules.yml: change them there, and then run
# python -m tests.kubernetes.prometheus_rule
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mingus-health
  labels:
    app.kubernetes.io/name: mingus-health
"""


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such: kustomize adds lines to a folded one."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def manifest() -> str:
    """The PrometheusRule that carries the rules as they are now."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return HEAD + yaml.dump({"spec": rules}, Dumper=_Dumper, sort_keys=False, width=100)


if __name__ == "__main__":
    TARGET.write_text(manifest(), encoding="utf-8")
