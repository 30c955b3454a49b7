"""`trajmatch push` and `trajmatch.load("hf:...")` with the Hub's own client, against a server on this machine."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import trajmatch
from tests.data.sample_images import TEST, TRAIN, images, write_folder, write_table
from tests.small import command, succeed
from trajmatch.data import space_file
from trajmatch.data import synthetic as sets
from trajmatch.data.images import load
from trajmatch.data.reading import hub
from trajmatch.run.cli import main

LIBRARIES = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a push and a download ask for; repositories are folders of bytes in `server.held`."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            new = name not in self.server.held
            self.server.held.setdefault(name, {})
            url = f"http://{self.headers['Host']}/datasets/{name}"
            self.answer(200 if new else 409, {"url": url, "name": name})
        elif self.path.startswith("/api/validate-yaml"):
            self.server.cards.append(json.loads(body)["content"])
            self.answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/datasets/(.+)/preupload/main", self.path.split("?")[0]):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self.answer(200, {"files": [{**file, "shouldIgnore": False} for file in files]})
        elif found := re.fullmatch(r"/api/datasets/(.+)/commit/main", self.path.split("?")[0]):
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    self.server.held[found[1]][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/{found[1]}/commit/{'0' * 40}"
            self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})
        else:
            self.answer(404, {"error": f"not known here: {self.path}"})

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if found := re.fullmatch(r"/datasets/(.+)/resolve/([^/]+)/(.+)", path):
            file = self.server.held.get(found[1], {}).get(found[3])
            headers = {"X-Repo-Commit": "0" * 40, "ETag": f'"{found[1]}{found[3]}"'}
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"}) if file is None else self.answer(
                200, file, headers
            )
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            files = [name for name in self.server.held[found[1]] if name.startswith(found[2])]
            tree = [
                {"type": "file", "path": name, "size": len(self.server.held[found[1]][name]), "oid": "0" * 40}
                for name in files
            ]
            folders = {name.rpartition("/")[0] for name in files} - {"", found[2]}
            tree += [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]
            self.answer(200 if files else 404, tree, {} if files else {"X-Error-Code": "EntryNotFound"})
        elif (found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)) and (
            found[1] in self.server.held
        ):
            names = [{"rfilename": name} for name in self.server.held[found[1]]]
            self.answer(200, {"id": found[1], "sha": "0" * 40, "siblings": names})
        else:
            self.answer(404, {"error": f"not known here: {self.path}"}, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("huggingface_hub", reason="needs the extra hf")
    from huggingface_hub import constants

    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    found.held, found.cards, found.asked = {}, [], []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{found.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", *hub._OFFLINE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.shutdown()
    found.server_close()


@LIBRARIES
def test_push_and_load(whole: Path, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert main(["push", str(whole), "digits-small"]) == 0
    assert capsys.readouterr().out.endswith("/datasets/me/digits-small\n")
    held = server.held["me/digits-small"]
    assert set(held) == {
        "README.md", "config.yaml", "data/train-00000-of-00001.parquet", "distilled.safetensors", "images.png",
        "scores.json",
    }  # fmt: skip
    one, two = trajmatch.load(whole), trajmatch.load("hf:me/digits-small")
    assert torch.equal(one.X, two.X)
    assert torch.equal(one.Y, two.Y)
    assert (one.eta, one.classes) == (two.eta, two.classes)
    text = held["README.md"].decode()
    assert 'trajmatch.load("hf:me/digits-small")' in text
    assert yaml.safe_load(text.split("---")[1])["task_categories"] == ["image-classification"]
    assert str(whole.parent).encode() not in b"".join(held.values())  # nothing of this machine's folders

    server.held["me/digits-small"]["scores.json"] = b"old"
    assert main(["push", str(whole), "me/digits-small"]) == 0  # a set of ours is replaced
    assert server.held["me/digits-small"]["scores.json"] != b"old"

    table = tmp_path / "train.parquet"
    table.write_bytes(held["data/train-00000-of-00001.parquet"])
    from trajmatch.data.reading.sources import read

    source = read(table)
    assert (source.classes, source.train.labels.tolist()) == (one.classes, one.Y.argmax(1).tolist())


@LIBRARIES
def test_a_large_whitening_travels_beside_its_set(
    whole: Path, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_file, "LARGE", 0)
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "0")
    one = trajmatch.load(whole)
    sets.save(one, tmp_path / "mine.safetensors")
    assert main(["push", str(tmp_path / "mine.safetensors"), "me/apart"]) == 0
    assert sum(name.startswith("whitening-") for name in server.held["me/apart"]) == 1
    two = trajmatch.load("hf:me/apart")
    assert torch.equal(one.X, two.X)
    assert torch.equal(one.pixels, two.pixels)


@LIBRARIES
def test_data_by_its_name_on_the_hub(server: Any, tmp_path: Path) -> None:
    """In a process of its own: the package reads the Hub's address when it is imported."""
    pytest.importorskip("datasets", reason="needs the extra hf")
    held = server.held["you/photos"] = {}
    for split, seed, n in (("train", 0, TRAIN), ("test", 1, TEST)):
        table = write_table(tmp_path / f"{split}.parquet", *images(n, seed))
        held[f"data/{split}-00000-of-00001.parquet"] = table.read_bytes()
    script = "from trajmatch.data.images import load; d = load('hf:you/photos@v1'); print(d.name, d.digest)"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["photos", load(write_folder(tmp_path / "folder")).digest]
    assert any("/revision/v1" in path or "/resolve/v1/" in path for path in server.asked)


@LIBRARIES
def test_what_the_hub_refuses(
    whole: Path, server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    server.held["you/photos"] = {"README.md": b"photos", "train.parquet": b"photos"}
    assert main(["push", str(whole), "you/photos"]) == 2
    said = capsys.readouterr().err
    assert "you/photos holds another data set on the Hugging Face Hub: choose another name" in said
    assert server.held["you/photos"] == {"README.md": b"photos", "train.parquet": b"photos"}
    with pytest.raises(ValueError, match=r"'hf:you/photos' has no distilled\.safetensors: it is not a set that"):
        trajmatch.load("hf:you/photos")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", str(whole), "me/mine"]) == 2
    assert "log in by `hf auth login` or set HF_TOKEN" in capsys.readouterr().err
    assert "me/mine" not in server.held


def test_without_a_network(whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("trajmatch.data.reading.parquet.require", lambda *_: None)
    monkeypatch.setattr(hub, "_is_reachable", lambda: False)
    for name in hub._OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert main(["push", str(whole), "me/mine"]) == 2
    assert "me/mine cannot be written: the Hugging Face Hub cannot be reached: --out FOLDER" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'hf:me/mine' cannot be loaded: the Hugging Face Hub cannot be reached: give"):
        trajmatch.load("hf:me/mine")


def test_a_repository_on_the_disk(
    whole: Path, experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    flags = "--evaluation.whole-epochs", 1, "--experts", experts
    succeed(*command("run", *flags, "--steps", 1, "--out", tmp_path / "run"))
    out = tmp_path / "repository"
    assert main(["push", str(tmp_path / "run"), "me/mine", "--out", str(out)]) == 0
    scores = json.loads((out / "scores.json").read_text())["accuracy"]
    text = (out / "README.md").read_text()
    assert f"| the set | {scores['distilled']['mean']:.2%} ± {scores['distilled']['std']:.2%} | 2 |" in text
    assert main(["push", str(tmp_path / "run"), "me/mine", "--out", str(out)]) == 2
    assert "which exists: name a folder that does not" in capsys.readouterr().err
    for words, said in (
        (["push", str(out)], "needs a run folder or a set, and the name of a repository"),
        (["push", str(tmp_path), "me/mine"], "there is no distilled set here"),
        (["push", str(out), "me/mine@v1"], "must be the name of a repository"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
