"""The engine's version and the shape of everything that ours overrides or relies upon.

When one of these fails after an upgrade of the engine: read what changed, run the simulations of
tests/property/consensus, and only then set the new digests.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import random
import re
from pathlib import Path
from typing import Any

import pysyncobj.config
import pysyncobj.node
import pysyncobj.syncobj as bare
import pysyncobj.transport
import pytest
from pysyncobj import SyncObj
from pysyncobj.version import VERSION

from quorate.consensus import RaftSettings, engine, pysync
from quorate.consensus.configuration import Configuration
from quorate.consensus.engine import Engine
from quorate.testing.raft_disk import MemoryLogStore

OVERRIDDEN = {
    "_SyncObj__doApplyCommand": "ff91854365853ab6",
    "_SyncObj__getEntries": "69b5a9acadd418c6",
    "_SyncObj__loadDumpFile": "a4ccc8dfee12e561",
    "_SyncObj__onBecomeLeader": "3983a9c33c3089af",
    "_SyncObj__onMessageReceived": "f9638539aebf5af0",
    "_SyncObj__sendAppendEntries": "67aecd11c6ffa959",
    "_SyncObj__setCurrentTerm": "4945cca4d85f8926",
    "_SyncObj__tryLogCompaction": "2b3fd3e309fa6620",
    "_applyCommand": "e52d2f343df3c6d6",
    "_checkCommandsToApply": "1bc734ab4bfc2ff9",
}
RELIED_UPON = {
    "_SyncObj__applyLogEntries": "185efa65a86b6d2a",
    "_SyncObj__connectedToAnyone": "2527d25dc93aa09e",
    "_SyncObj__generateRaftTimeout": "a3424c1452535367",
    "_SyncObj__getCurrentLogIndex": "51798bfaf43a6d22",
    "_SyncObj__getCurrentLogTerm": "599d26f98cee6b3f",
    "_SyncObj__onLeaderChanged": "0b0100a02675dd3a",
    "_SyncObj__onNodeConnected": "0f239b1dcd1d9cc2",
    "_SyncObj__onNodeDisconnected": "fcaeb70d842a43b3",
    "_SyncObj__onSetCodeVersion": "b7246e9773dc4c78",
    "_SyncObj__setState": "30e2bdeb0df7f12f",
    "__init__": "d95e659bcd75e66e",
    "_onTick": "997cabc32e4977bb",
    "doTick": "07f09e41e0c556d9",
}
BESIDE = {
    "pysyncobj.config.SyncObjConf": "9029216816bddb93",
    "pysyncobj.node.Node": "18d05245ab92e0ec",
    "pysyncobj.transport.Transport": "4ffc317c35c5b20e",
}


def digest(thing: Any) -> str:
    """Of the source, whatever its white space."""
    source = re.sub(r"\s+", " ", inspect.getsource(thing)).strip()
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def test_the_version_is_the_one_that_was_read() -> None:
    assert VERSION == importlib.metadata.version("pysyncobj") == "0.3.17"
    required = importlib.metadata.requires("quorate") or []
    assert "pysyncobj==0.3.17" in required


@pytest.mark.parametrize(("name", "expected"), sorted((OVERRIDDEN | RELIED_UPON).items()))
def test_the_engines_methods_are_those_that_were_read(name: str, expected: str) -> None:
    assert digest(vars(SyncObj)[name]) == expected


@pytest.mark.parametrize(("name", "expected"), sorted(BESIDE.items()))
def test_the_engines_classes_are_those_that_were_read(name: str, expected: str) -> None:
    module, _, cls = name.rpartition(".")
    modules = {
        "pysyncobj.config": pysyncobj.config,
        "pysyncobj.node": pysyncobj.node,
        "pysyncobj.transport": pysyncobj.transport,
    }
    assert digest(getattr(modules[module], cls)) == expected


def test_every_overridden_name_is_the_engines() -> None:
    """A method that the engine renames would no longer be overridden, and its own would run."""
    ours = {name for name in vars(Engine) if name.startswith("_SyncObj__")}
    assert ours <= set(OVERRIDDEN)
    assert ours <= set(vars(SyncObj))
    inherited = {name for name in vars(SyncObj) if not name.startswith("__")}
    assert {name for name in vars(Engine) if name in inherited} == set(OVERRIDDEN)


def test_every_name_of_the_engine_that_ours_uses_exists() -> None:
    source = Path(inspect.getsourcefile(engine) or "").read_text()
    used = set(re.findall(r"_SyncObj__\w+[a-zA-Z]", source))
    plain = SyncObj(None, [], pysyncobj.SyncObjConf(autoTick=False), transport=_Silent())
    held = set(vars(plain)) | set(vars(SyncObj))
    assert used
    assert used <= held


def test_every_method_that_ours_calls_is_pinned() -> None:
    source = Path(inspect.getsourcefile(engine) or "").read_text()
    called = set(re.findall(r"_SyncObj__\w+[a-zA-Z](?=\()", source))
    assert called <= set(OVERRIDDEN) | set(RELIED_UPON)


class _Silent(pysyncobj.transport.Transport):
    def __init__(self) -> None:
        super().__init__(None, None, None)


def test_the_modules_the_engine_calls_are_replaced() -> None:
    module: Any = pysync.engine_module()
    assert module is bare
    for name in ("loads", "dumps", "load", "dump"):
        with pytest.raises(Exception, match="pickle"):
            getattr(module.pickle, name)(b"")
    assert module.random is not random
    assert not hasattr(module.createPoller("auto"), "fileno")


def test_the_engine_opens_nothing_and_starts_nothing() -> None:
    built = Engine(
        node_id="a",
        initial=Configuration(("a", "b")),
        settings=RaftSettings(),
        store=MemoryLogStore(),
        outbox=lambda _peer, _message: None,
        apply=lambda _index, _payload: None,
        stamp=lambda payload: payload,
        clock=lambda: 0.0,
        wall_clock_ms=lambda: 0,
        chance=random.Random(0),  # noqa: S311
        may_lead=lambda: True,
        offer=lambda _peer, _term: None,
        probation=lambda: "",
    )
    conf = built.conf
    assert (conf.autoTick, conf.journalFile, conf.fullDumpFile) == (False, None, None)
    assert conf.dynamicMembershipChange is False
    assert built._SyncObj__thread is None
