"""Published data come from a folder or the hub, are recorded with their hashes, and do not leak between splits."""

import hashlib
import json

import datasets
import pytest

import envs
from envs import Split, published
from rl.backends import hub


def write(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gsm8k(tmp_path):
    train = [{"question": f"What is {i} + 1?", "answer": f"It is\n#### {i + 1}"} for i in range(40)]
    write(tmp_path, "train.jsonl", [*train, {"question": "  how MANY apples? ", "answer": "#### 3"}])
    write(tmp_path, "test.jsonl", [{"question": "How many apples?", "answer": "#### 3"}])
    return envs.make("errata/gsm8k-v1", options={"path": str(tmp_path)}).taskset, tmp_path


def test_a_training_question_that_is_a_test_question_is_left_out(gsm8k):
    taskset, _ = gsm8k
    kept = [task.question for split in (Split.TRAIN, Split.VALIDATION) for task in taskset.load(split)]
    assert len(kept) == 40
    assert not any("apples" in question for question in kept)


def test_what_was_read_is_known_by_content(gsm8k):
    taskset, folder = gsm8k
    taskset.load(Split.TEST)
    (read,) = taskset.provenance
    assert read.sha256 == hashlib.sha256((folder / "test.jsonl").read_bytes()).hexdigest()
    assert (read.rows, read.licence, read.as_published) == (1, "MIT", False)  # the rows differ from the published ones


def test_the_hub_gives_the_same_tasks(gsm8k, monkeypatch):
    taskset, folder = gsm8k
    asked = []

    def load_dataset(repo, config, split):
        asked.append((repo, config, split))
        return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]

    hub.register()
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    other = envs.make("errata/gsm8k-v1", options={"path": "hub"}).taskset
    for split in Split:
        assert other.load(split) == taskset.load(split)
    assert set(asked) == {("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")}
    assert {one.file for one in other.provenance} == {"openai/gsm8k, split train", "openai/gsm8k, split test"}
    assert all(one.as_published is None and len(one.sha256) == 64 for one in other.provenance)


def test_a_hub_that_cannot_be_reached_says_where_else_the_data_are(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    hub.register()
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("gsm8k", "math", "mbpp", "humaneval"):
        with pytest.raises(FileNotFoundError, match=r"path=hub.*no route.*github|path=hub.*no route.*MATH"):
            envs.make(f"errata/{name}-v1", options={"path": "hub"}).taskset.load(Split.TEST)


def test_environments_alone_say_who_reads_from_the_hub(monkeypatch):
    monkeypatch.setattr(published, "_reader", None)
    with pytest.raises(FileNotFoundError, match=r"from rl\.backends import hub; hub\.register\(\)"):
        envs.make("errata/gsm8k-v1", options={"path": "hub"}).taskset.load(Split.TEST)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_published_file_may_have_been_saved_again_in_another_encoding(gsm8k, encoding):
    taskset, folder = gsm8k
    before = taskset.load(Split.TEST)
    path = folder / "test.jsonl"
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert envs.make("errata/gsm8k-v1", options={"path": str(folder)}).taskset.load(Split.TEST) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": 3}, r"test\.jsonl, line 1: column 'question' must be text, got 3"),
        ({"question": None}, r"test\.jsonl, line 1: column 'question' must be text, got None"),
        ({"answer": None}, r"test\.jsonl, row 1: the answer must be text, got None"),
        ({"answer": {"value": 3}}, r"test\.jsonl, row 1: the answer must be text, got \{'value': 3\}"),
        ({"answer": 3.5}, r"test\.jsonl, row 1: the answer must be text, got 3\.5"),
    ],
)
def test_a_cell_of_another_kind_is_named_with_its_line(gsm8k, change, message):
    taskset, folder = gsm8k
    write(folder, "test.jsonl", [{"question": "How many?", "answer": "#### 3"} | change])
    with pytest.raises(ValueError, match=message):
        taskset.load(Split.TEST)


def test_a_missing_file_of_ones_own_names_the_environment_for_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="For a file of your own use env=rows"):
        envs.make("errata/gsm8k-v1", options={"path": str(tmp_path / "mine.jsonl")}).taskset.load(Split.TEST)
