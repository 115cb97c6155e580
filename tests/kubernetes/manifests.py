"""The manifests as they are applied: what ``kubectl kustomize`` makes of k8s/, without kubectl.

Knows what our kustomizations use, and refuses all else. Where there is a kubectl, a test
proves that both make the same.
"""

import ast
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tests.pod import ROOT

K8S = ROOT / "k8s"
BASE = K8S / "base"
OVERLAYS = {name: K8S / "overlays" / name for name in ("dev", "production")}

Manifest = dict[str, Any]

_FIELDS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "images",
    "labels",
    "patches",
    "configMapGenerator",
    "secretGenerator",
}
_GENERATED = {"ConfigMap", "Secret"}
_CLUSTER_WIDE = {"Namespace"}
_MERGED_BY = {"containers": "name"}
_REPLACED = {"envFrom"}


def rendered(directory: Path) -> list[Manifest]:
    """Every object a kustomization stands for."""
    objects = _build(directory, [])
    names = {}
    for each in objects:
        if "hashed" in each:
            del each["hashed"]
            name = each["metadata"]["name"]
            each["metadata"]["name"] = f"{name}-{_content_hash(each)}"
            names[each["kind"], name] = each["metadata"]["name"]
    for each in objects:
        _refer(each, names)
    return objects


def one(objects: list[Manifest], kind: str, name: str = "mingus-health") -> Manifest:
    """The only object of a kind with a name; a generated name without its hash."""
    (found,) = (each for each in objects if each["kind"] == kind and _plain_name(each) == name)
    return found


def _plain_name(each: Manifest) -> str:
    name: str = each["metadata"]["name"]
    return re.sub("-[0-9a-z]{10}$", "", name) if each["kind"] in _GENERATED else name


def documents(path: Path) -> list[Manifest]:
    """The objects in a file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def _build(directory: Path, objects: list[Manifest]) -> list[Manifest]:
    """The objects, and those of a kustomization, which sees them if it is a component."""
    (given,) = documents(directory / "kustomization.yaml")
    if not set(given) <= _FIELDS:
        raise NotImplementedError(f"{directory}: {set(given) - _FIELDS}")
    objects = list(objects)
    for name in given.get("resources", ()):
        path = directory / name
        objects += _build(path, []) if path.is_dir() else documents(path)
    for kind, field in (("ConfigMap", "configMapGenerator"), ("Secret", "secretGenerator")):
        for generator in given.get(field, ()):
            _generate(objects, kind, generator)
    for name in given.get("components", ()):
        objects = _build(directory / name, objects)
    for patch in given.get("patches", ()):
        (change,) = documents(directory / patch["path"])
        target = one(objects, change["kind"], change["metadata"]["name"])
        target.update(_merged(target, change))
    for each in objects:
        _transform(each, given)
    return objects


def _transform(each: Manifest, given: Manifest) -> None:
    """What a kustomization does to every object."""
    if "namespace" in given and each["kind"] not in _CLUSTER_WIDE:
        each["metadata"]["namespace"] = given["namespace"]
    for label in given.get("labels", ()):
        _label(each, label)
    for image in given.get("images", ()):
        _set_image(each, image)


def _generate(objects: list[Manifest], kind: str, generator: Manifest) -> None:
    """What a generator makes; like a component, it may add to what is there."""
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    if kind == "Secret":
        data = {key: _encoded(value) for key, value in data.items()}
    if generator.get("behavior") == "merge":
        one(objects, kind, generator["name"])["data"].update(data)
        return
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}}
    if kind == "Secret":
        made["type"] = "Opaque"
    objects.append({**made, "data": data, "hashed": True})


def _encoded(value: str) -> str:
    """Base64 as kustomize writes it: what is long, in lines of 70."""
    text = base64.b64encode(value.encode()).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    return "".join(f"{line}\n" for line in lines) if len(text) >= 70 else text


def _merged(value: Any, change: Any, field: str = "") -> Any:
    """A strategic merge."""
    if isinstance(change, dict) and isinstance(value, dict):
        return {
            **deepcopy(value),
            **{key: _merged(value.get(key), each, key) for key, each in change.items()},
        }
    if isinstance(change, list) and value is not None and field not in _REPLACED:
        key = _MERGED_BY[field]
        changes = {each[key]: each for each in change}
        assert set(changes) <= {each[key] for each in value}, field
        return [_merged(each, changes.get(each[key], {})) for each in value]
    return deepcopy(change)


def _label(each: Manifest, label: Manifest) -> None:
    if label["includeSelectors"] or not label["includeTemplates"]:
        raise NotImplementedError(label)
    template = each.get("spec", {}).get("template")
    for target in (each, template) if template else (each,):
        target["metadata"].setdefault("labels", {}).update(label["pairs"])


def _set_image(each: Manifest, image: Manifest) -> None:
    for container in containers(each):
        if container["image"].partition(":")[0] == image["name"]:
            name = image.get("newName", image["name"])
            container["image"] = f"{name}:{image['newTag']}"


def gunicorn(name: str) -> Any:
    """A constant of gunicorn.conf.py."""
    tree = ast.parse((ROOT / "gunicorn.conf.py").read_text(encoding="utf-8"))
    (found,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return found


def containers(each: Manifest) -> list[Manifest]:
    """The containers of an object's pods."""
    template = each.get("spec", {}).get("template", {})
    return list(template.get("spec", {}).get("containers", ()))


def references(each: Manifest) -> Iterator[tuple[str, Manifest, str]]:
    """Where an object's pods name ConfigMaps and Secrets: the kind, the place, its key."""
    for container in containers(each):
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"], "name"
            else:
                yield "Secret", source["secretRef"], "name"
    for volume in each.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", ()):
        if "secret" in volume:
            yield "Secret", volume["secret"], "secretName"


def _refer(each: Manifest, names: dict[tuple[str, str], str]) -> None:
    for kind, place, key in references(each):
        place[key] = names.get((kind, place[key]), place[key])


def _content_hash(each: Manifest) -> str:
    """The suffix kustomize gives: ten hexadecimal digits, those that could spell words changed."""
    content = {"data": each["data"], "kind": each["kind"], "name": ""}  # it forgets the name
    if "type" in each:
        content["type"] = each["type"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digest.translate(str.maketrans("013ae", "ghkmt"))
