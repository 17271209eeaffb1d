"""The reference of all keys, made from the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import daisi_ws.config
from daisi_ws.config import FIELDS, SECTIONS, Field
from daisi_ws.config.doc import (
    MARKDOWN_COMMAND,
    YAML_COMMAND,
    as_yaml,
    markdown_of,
    markdown_reference,
    named,
    text_reference,
    yaml_reference,
)
from daisi_ws.config.yaml_file import read_file

ROOT = Path(daisi_ws.config.__file__).parents[2]


def test_the_shipped_file_is_current() -> None:
    """conf/config.yaml is what the schema says."""
    shipped = (ROOT / "conf/config.yaml").read_text()
    assert shipped == yaml_reference(), f"not current, run: {YAML_COMMAND}"


def test_the_markdown_reference_is_current() -> None:
    """docs/configuration.md is what the schema says."""
    shipped = (ROOT / "docs/configuration.md").read_text()
    assert shipped == markdown_reference(), f"not current, run: {MARKDOWN_COMMAND}"


def test_the_shipped_file_states_every_default(tmp_path: Path) -> None:
    """With every comment sign before a key removed it is valid and says exactly the defaults."""
    file = tmp_path / "c.yaml"
    file.write_text(re.sub(r"^( *)#(\w+:)", r"\1\2", yaml_reference(), flags=re.MULTILINE))
    layer = read_file(file)
    assert layer.problems == []
    stated = {name: value for name, (value, _) in layer.values.items()}
    assert stated == {name: f.default for name, f in FIELDS.items() if not f.required}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_every_key_is_explained(field: Field) -> None:
    """Each key has a sentence, words for what is right, and a default that is right itself."""
    assert field.key.about.endswith(".")
    assert field.right not in ("", "a list of texts")
    if field.kind in ("int", "float"):
        assert field.key.low is not None
        assert field.key.high is not None
    text = text_reference([field])
    assert field.name in text
    assert field.environment in text
    assert ("hot]" in text or "hot;" in text) == field.key.hot


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_explained(section: str) -> None:
    """A section's purpose stands in both references."""
    purpose = " ".join((SECTIONS[section].__doc__ or "").split())
    assert purpose.endswith(".")
    assert purpose in markdown_reference() or not any(f.section == section for f in FIELDS.values())


def test_names_select_a_section_or_a_key() -> None:
    """A section brings those below it, a key itself; anything else is unknown."""
    assert {field.section for field in named("nats")} == {"nats", "nats.tls"}
    assert [field.name for field in named("log.level")] == ["log.level"]
    with pytest.raises(KeyError):
        named("nope")
    assert markdown_of("nats").count("| `enabled` |") == 1
    assert "### nats.tls" in markdown_of("nats")
    assert "| `level` |" in markdown_of("log.level")


@pytest.mark.parametrize(
    "text", ["yes", "null", "1.5", "a: b", "#x", 'a"b\\c', "", "- a", "'", "~"]
)
def test_text_is_written_so_that_it_is_read_as_text(tmp_path: Path, text: str) -> None:
    """What YAML would take for something else is quoted."""
    file = tmp_path / "c.yaml"
    file.write_text(f"redis:\n  password: {as_yaml(text)}\n")
    assert read_file(file).values["redis.password"][0] == text
