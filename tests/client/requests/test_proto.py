"""The committed stubs are what forget.proto gives."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from fedquit.client.requests.proto import forget_pb2, forget_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
PROTO = "fedquit/client/requests/proto/forget.proto"


def test_the_committed_stubs_are_what_the_proto_file_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    monkeypatch.chdir(ROOT)
    if not Path(PROTO).exists():
        pytest.skip("links were checked out as text files")
    assert protoc.main(["protoc", "-I.", f"--descriptor_set_out={tmp_path / 'set'}", PROTO]) == 0
    (made,) = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    there = FileDescriptorProto.FromString(forget_pb2.DESCRIPTOR.serialized_pb)
    for field in [field for message in made.message_type for field in message.field]:
        field.ClearField("json_name")  # protoc adds it, the stubs leave it out
    assert made == there
    methods = {method.name for method in made.service[0].method}
    assert {name for name in vars(forget_pb2_grpc.ForgetServicer) if not name.startswith("_")} == methods
    typed = (ROOT / "client" / "requests" / "proto" / "forget_pb2.pyi").read_text(encoding="utf-8")
    for message in made.message_type:
        body = typed.partition(f"class {message.name}(")[2].partition("\nclass ")[0]
        assert re.findall(r"^    (\w+): (?!_ClassVar)", body, flags=re.MULTILINE) == [one.name for one in message.field]


def test_the_stubs_were_made_by_versions_that_the_project_allows() -> None:
    needed = re.search(r"GRPC_GENERATED_VERSION = '(\d+)\.(\d+)\.(\d+)", Path(forget_pb2_grpc.__file__).read_text())
    lowest = re.search(r'"grpcio>=(\d+)\.(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert needed is not None
    assert lowest is not None
    assert tuple(map(int, needed.groups())) <= tuple(map(int, lowest.groups()))
