"""Forgotten samples stay out of training in whatever form or place they are stored."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fedquit.client.device.command import leave
from fedquit.client.device.local_data.sample_names import marking
from fedquit.client.kit import Kit
from fedquit.errors import InputError
from tests.client.device.kit_messages import (
    OTHER,
    REQUEST,
    change,
    forget,
    mark,
    model_of,
    ridden,
    rows,
    said,
    send,
    trained_on,
)


def test_forgotten_samples_never_train_again_in_any_position_or_number(kit: Kit) -> None:
    gone = rows(kit, 1, 5)
    mark(kit, 1, 5)
    forget(kit)
    assert trained_on(kit).isdisjoint(gone)
    change(kit, lambda x, y: (np.concatenate([x[::-1], x[[1, 1]]]), np.concatenate([y[::-1], y[[1, 1]]])))
    assert trained_on(kit).isdisjoint(gone)
    assert said(send(kit, "query"))["num-examples"] == 10


def stored_as(kit: Kit, form: str) -> None:
    """Store the kit's data in another form, without loss."""
    with np.load(kit.path(kit.data)) as held:
        x, y = held["x"], held["y"]
    arrays = {
        "with channels": x[:, None],
        "rows": x.reshape(12, 16),
        "float32 levels": x.astype(np.float32),
        "float64 0..1": x / 255,
        "float16 0..1": (x / 255).astype(np.float16),
        "as training sees it": x.astype(np.float32) / np.float32(127.5) - 1,
    }
    if form in arrays:
        np.savez(kit.path(kit.data), x=arrays[form], y=y.astype(np.uint8))
        return
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        (kit.folder / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(form).save(kit.folder / "images" / str(label) / f"{number}.png")
    told = kit.folder / "device.toml"
    told.write_text(told.read_text().replace("own.npz", "images"))


FORMS = (
    "with channels", "rows", "float32 levels", "float64 0..1", "float16 0..1", "as training sees it", "L", "RGB",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_was_forgotten_does_not_train_again_in_another_form(kit: Kit, form: str) -> None:
    mark(kit, 1, 5)
    forget(kit)
    stored_as(kit, form)
    kit = Kit.read(kit.folder)
    assert said(send(kit, "query"))["num-examples"] == 10
    assert said(send(kit, "train"))["num-examples"] == 10


@pytest.mark.parametrize("form", FORMS)
def test_samples_stored_in_another_form_since_the_request_are_forgotten(kit: Kit, form: str) -> None:
    marking(kit, "sample", rows(kit, 1, 5))(REQUEST)
    stored_as(kit, form)
    kit = Kit.read(kit.folder)
    reply = forget(kit, granularity="sample")
    assert said(reply)["num-examples"] == 2
    assert said(send(kit, "train"))["num-examples"] == 10
    assert model_of(forget(kit, granularity="sample")) == model_of(reply)


@pytest.mark.parametrize("form", FORMS)
def test_samples_named_in_a_piggybacked_request_are_forgotten_in_another_form(kit: Kit, form: str) -> None:
    CliRunner().invoke(leave, [str(kit.folder), "--sample", "1", "--sample", "5"], catch_exceptions=False)
    request = ridden(send(kit, "train")).id
    stored_as(kit, form)
    assert said(forget(Kit.read(kit.folder), request, granularity="sample"))["num-examples"] == 2


def test_a_sample_retired_once_is_not_forgotten_again_in_another_form(kit: Kit) -> None:
    mark(kit, 1, 5)
    forget(kit)
    stored_as(kit, "rows")
    assert said(forget(kit, OTHER, granularity="client"))["num-examples"] == 10


def test_a_class_that_was_forgotten_does_not_come_back_written_otherwise(kit: Kit) -> None:
    forget(kit, granularity="class", classes="2")
    change(kit, lambda x, y: (255 - x, np.char.add("0", y.astype(str))))
    assert said(send(kit, "query"))["num-examples"] == 8


def test_what_was_forgotten_does_not_come_back_under_another_label(kit: Kit) -> None:
    mark(kit, 1)
    forget(kit)
    change(kit, lambda x, y: (x, np.where(np.arange(12) == 1, 2, y)))
    assert len(trained_on(kit)) == 11


def test_samples_marked_then_deleted_do_not_train_when_they_come_back(kit: Kit) -> None:
    trained_on(kit)
    mark(kit, 1)
    whole = kit.path(kit.data).read_bytes()
    change(kit, lambda x, y: (np.delete(x, 1, 0), np.delete(y, 1, 0)))
    with pytest.raises(InputError, match="nothing that request 5e5e5e5e5e5e is about is there any more"):
        forget(kit)
    kit.path(kit.data).write_bytes(whole)
    assert len(trained_on(kit)) == 11


def test_samples_that_are_added_train_and_those_removed_do_not(kit: Kit) -> None:
    first = trained_on(kit)
    change(kit, lambda x, y: (np.concatenate([x[2:], 255 - x[:1]]), np.concatenate([y[2:], y[:1]])))
    second = trained_on(kit)
    assert len(first - second) == 2
    assert len(second - first) == 1
