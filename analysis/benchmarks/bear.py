"""BEAR: does a model know facts? Wiland, Ploner & Akbik 2024, arXiv 2404.04113.

A question is a subject and a relation; every answer of the relation's answer space is put into the
relation's template, and the most probable statement counts as the model's answer. Templates hold
`[X]` for the subject and `[Y]` for the answer; a statement begins with a capital letter.

The layout of the data set: `<relation>.jsonl` with `sub_label` and `answer_idx`,
`metadata_relations.json` with `templates` and `answer_space_labels`, and, there or one folder up,
`relation_info.json` with the `domains` of each relation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.benchmarks.figures import MEAN_OF_ITEMS
from analysis.benchmarks.files import SourceRow, in_any_case, read_file, read_object, text_field
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import BenchmarkKind
from analysis.schema.typed import typed

HUB_ID = "lm-pub-quiz/BEAR"
_RELATIONS = "metadata_relations.json"
_DOMAINS = "relation_info.json"


@dataclass(frozen=True)
class Relation:
    """A relation: its wordings, the answers to choose from, the domains that it belongs to."""

    name: str
    templates: tuple[str, ...]
    answers: tuple[str, ...]
    domains: tuple[str, ...] = ()


def find(path: Path) -> Path | None:
    """Find the folder of the relations: `path`, or `BEAR` in it."""
    for folder in (path, path / "BEAR"):
        if (folder / _RELATIONS).is_file():
            return folder
    return None


def read_bear(folder: Path, *, all_templates: bool = False) -> tuple[Item, ...]:
    """The questions of all relations of a folder.

    Args:
        folder: see the module's text.
        all_templates: ask every question in each wording; by default only in the first, as the
            authors' library does.

    Raises:
        ValueError: a file is missing or wrong (file and line are named).
    """
    items: list[Item] = []
    for relation in read_relations(folder):
        questions = [row.parse(_question(relation)) for row in _rows(folder, relation)]
        for template in relation.templates if all_templates else relation.templates[:1]:
            items += [
                statements(relation, template, subject, right, f"{relation.name} {index}")
                for index, (subject, right) in enumerate(questions)
            ]
    return tuple(items)


def statements(
    relation: Relation, template: str, subject: str, right: int, cluster: str = ""
) -> Item:
    """One question: a statement for each answer."""
    filled = template.replace("[X]", subject)
    texts = (filled.replace("[Y]", answer) for answer in relation.answers)
    return Item(
        task=relation.name,
        options=tuple(text[:1].upper() + text[1:] for text in texts),
        right=right,
        groups=tuple(("domain", domain) for domain in relation.domains),
        cluster=cluster,
    )


def read_relations(folder: Path) -> Iterator[Relation]:
    """The relations that a folder describes, in its order; errors as for `read_bear`."""
    file = folder / _RELATIONS
    domains = _read_domains(folder)
    relations = read_object(file)
    if not relations:
        raise ValueError(f"{file} describes no relation")
    for name, values in relations.items():
        try:
            yield _relation(name, values, domains)
        except ValueError as error:
            raise ValueError(f"{file}, {name}: {error}") from error


def _relation(name: str, values: object, domains: Mapping[str, tuple[str, ...]]) -> Relation:
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, not {type(values).__name__}")
    for key in ("templates", "answer_space_labels"):
        found = values.get(key)
        if not isinstance(found, list) or not found or not all(isinstance(x, str) for x in found):
            raise ValueError(f"field {key!r} is not a list of texts")
    for template in values["templates"]:
        if "[X]" not in template or "[Y]" not in template:
            raise ValueError(f"the template {template!r} lacks [X] or [Y]")
    return Relation(
        name,
        tuple(values["templates"]),
        tuple(values["answer_space_labels"]),
        domains.get(name, ()),
    )


def _rows(folder: Path, relation: Relation) -> Iterator[SourceRow]:
    file = in_any_case(folder / f"{relation.name}.jsonl")
    if not file.is_file():
        raise ValueError(f"{file} is missing, but {_RELATIONS} describes {relation.name}")
    return read_file(file)


def _question(relation: Relation) -> Callable[[dict[str, object], str], tuple[str, int]]:
    """A parser of rows into the subject and the index of the right answer."""

    def parse(values: dict[str, object], source: str) -> tuple[str, int]:
        right = values.get("answer_idx")
        if not isinstance(right, int) or not 0 <= right < len(relation.answers):
            raise ValueError(f"answer_idx must be 0 to {len(relation.answers) - 1}, not {right!r}")
        return text_field(values, "sub_label"), right

    return parse


def _read_domains(folder: Path) -> dict[str, tuple[str, ...]]:
    for place in (folder, folder.parent):
        if (place / _DOMAINS).is_file():
            try:
                found = typed(read_object(place / _DOMAINS), dict[str, dict[str, object]])
                domains = {name: values.get("domains", ()) for name, values in found.items()}
                return typed(domains, dict[str, tuple[str, ...]])
            except ValueError as error:
                raise ValueError(f"{place / _DOMAINS}: {error}") from error
    return {}


def _download() -> Path:
    """The folder of the hub's data set in the hub's cache; ValueError if it cannot be reached."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(HUB_ID, repo_type="dataset"))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ValueError(
            f"{HUB_ID} cannot be read from the Hugging Face hub ({type(error).__name__}): connect "
            "to the network, or download it elsewhere and give its folder"
        ) from error
    found = find(folder)
    if found is None:
        raise ValueError(f"{HUB_ID} holds no {_RELATIONS}: its layout has changed")
    return found


BEAR = BenchmarkKind(
    "bear",
    ("bear*",),
    read=lambda place, source: read_bear(place, all_templates=source.all_templates),
    files=("*.jsonl", _RELATIONS, _DOMAINS),
    expects=f"{_RELATIONS}, and a *.jsonl file of each relation with sub_label and answer_idx",
    find=find,
    from_hub=lambda source: read_bear(_download(), all_templates=source.all_templates),
    hub_id=HUB_ID,
    figure=MEAN_OF_ITEMS,
    shown_by=None,
)
