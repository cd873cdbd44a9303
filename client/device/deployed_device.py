"""A device with a kit: its own data, its own record, and forget steps that are carried out exactly once.

A forget step is carried out in this order, each part on disk before the next begins: the samples are retired; the state
of earlier rounds is deleted; the model is evaluated on them, distilled, evaluated again; the reply is saved. Killed and
asked again, it resumes; asked again when it is done, it sends the same reply.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
from torch import nn

from fedquit.client.data.build_data_and_model import Form, configured_form, initial_model
from fedquit.client.device.bounds import DeviceBounds
from fedquit.client.device.device import NOTHING, ReceivedConfig
from fedquit.client.device.local_data.gather import Gathered, Keep, gather
from fedquit.client.device.local_data.sample_content import Content
from fedquit.client.device.local_data.samples_commitment import commitment, set_digest
from fedquit.client.device.memory import Memory
from fedquit.client.device.processes.refusals import retired_line
from fedquit.client.device.record import Forgotten, Mark, Record, Round
from fedquit.client.device.record.stored_replies import Replies
from fedquit.client.kit import FILE, Kit
from fedquit.client.models.model_file import model_hash
from fedquit.client.requests.piggyback import riding_ask
from fedquit.client.training.build_method import options_of
from fedquit.client.training.sgd import deterministic, evaluate
from fedquit.errors import FedquitError, InputError, unknown
from fedquit.settings import Part, Scalar, Settings, keys_of
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.accelerator import on_cpu, placed, placed_samples
from fedquit.unlearning.tensors.convert import StateDict

LONGEST = 3600.0  # seconds to wait for the message before this one
LONGEST_COPY = 7 * 86_400.0  # and with a message to forget, as it may be a copy of the one that is being carried out
NOTHING_TO_FORGET = "there is nothing to forget"
"""In the reason of a device that never trained on any of the samples that it is asked to forget."""
REPORTED = frozenset(
    f"{samples}-{figure}-{when}"
    for samples in ("forget", "unseen")
    for figure in ("loss", "accuracy")
    for when in ("before", "after")
)
"""What a device that forgets says of the model: on the samples to forget and on unseen ones, before and after."""
OLD_RECORD = (
    "device '{name}' does not train: its {record} is an older copy that lacks forgotten samples. Put the newer one "
    "back, or name the samples: fedquit record KIT --retire {request} --samples FILE (--gone in its place if they were "
    "deleted)"
)
"""Why a device with an older copy of its record refuses a message, and the ways out."""
REMINDED = 50
"""At most this many requests are taken from a list of what this device has retired."""
DROP = "drop"
"""In a forget message: the samples are to be retired and no more, whatever the method; the model comes back as sent."""
TOLD_LATE = keys_of(Part.METHOD)
"""Settings that a forget message may change: how to forget is decided long after the run began."""


class DeployedDevice:
    """The device that `kit` is of, for one message."""

    def __init__(self, kit: Kit, settings: Settings, run: str) -> None:
        self.kit, self.settings, self.run = kit, settings, run
        self._form, self._bounds = _form_of(settings), bounds_of(kit)
        self._path = kit.path(kit.record)
        self._record = Record(self._path)
        self._exercise = self._received = ""
        self._digests: tuple[bytes, ...] = ()
        self._gathered: dict[str, Gathered] = {}

    @property
    def memory(self) -> Memory:
        """See `Device`."""
        return memory_of(self.kit, self.settings)

    @contextmanager
    def at_work(self, exercise: str, config: ReceivedConfig) -> Iterator[None]:
        """See `Device`; one message at a time, and what the server says it has is dropped first."""
        self._exercise = exercise
        with closing(self._record):
            if exercise == "train" and config.get("samples", "keep") != "keep":
                raise InputError("this device trains on nothing that is to be forgotten; choose another method")
            longest = LONGEST_COPY if exercise == "forget" else LONGEST
            try:
                with filelock.FileLock(str(self._path) + ".lock", timeout=longest):
                    self._hear(config)
                    Replies(self._record).drop(_ids(config, "settled"))
                    if exercise in ("train", "forget"):
                        self._catch_up(config)
                    yield
            except filelock.Timeout:
                raise FedquitError(f"the message before this one has been at work for {longest:.0f} s") from None

    def _hear(self, config: ReceivedConfig) -> None:
        """Drop the asks that the server says it has, and keep why it refused others."""
        answers = _answers(config)
        self._record.taken([*_ids(config, "taken"), *(ask for ask, answer in answers.items() if answer == "taken")])
        self._record.refused(answers)

    def _catch_up(self, config: ReceivedConfig) -> None:
        """Retire again what the server says was retired, where an older copy of the record lacks it.

        Raises:
            InputError: it lacks samples that were retired, and the message has this device train on what it keeps:
                which they were, only a newer record or the owner knows.
        """
        known, lacking = {mark.request: mark for mark in self._record.marks()}, ""
        for request, classes in _retired(config).items():
            mark = known.get(request)
            if mark is not None:
                if mark.retired_at is None:
                    self._retire(mark)
            elif classes:
                self._retire(Mark(request, "class", labels=tuple(dict.fromkeys(map(self._label, classes)))))
            else:
                lacking = lacking or request
        if lacking and not self._is_about_request(config):
            raise InputError(OLD_RECORD.format(name=self.kit.name, request=lacking, record=self.kit.record))

    def who(self) -> dict[str, int]:
        """See `Device`."""
        return {"number": self.kit.number, "num-examples": len(self._gather(self._record.keeps()))}

    def samples(self, config: ReceivedConfig = NOTHING) -> Samples:
        """Return what is left of the device's data, or with `samples` = "forget" what `request` is about.

        Raises:
            InputError: there is nothing of that; the line says why.
            OutOfBoundsError: the owner allows no metrics on what is forgotten.
        """
        if self._is_about_request(config):
            if self._exercise != "forget":
                self._bounds.check_report()
            mark = self._mark(config)
            found = self._of(mark)
            why = "" if len(found) else self._why_none(mark)
        else:
            found, why = self._gather(self._record.keeps()), self._why_nothing()
        if not len(found):
            raise InputError(f"device '{self.kit.name}' has no samples: {why}")
        self._digests = found.digests
        return placed_samples(found.samples)

    def kept_since(self, requests: int) -> int:
        """See `Device`; a device does not learn who asked."""
        return requests

    def model(self, state: StateDict) -> nn.Module:
        """See `Device`."""
        self._received = model_hash(state)
        model = initial_model(self.settings, 0)  # not a copy of one that is kept: a process answers one message
        model.load_state_dict(state)
        return placed(model)

    def trained(self, config: ReceivedConfig, sent: StateDict) -> None:
        """See `Device`; the round is in the record before the server learns of it."""
        self._record.trained(
            Round(
                federation=self.kit.federation,
                run=self.run,
                phase=str(config.get("phase", "train")),
                number=int(config.get("server-round", 0)),
                model_in=self._received,
                model_out=model_hash(sent),
                num_examples=len(self._digests),
                samples_digest=set_digest(self._digests),
                at=self._record.now(),
            ),
            self._digests,
        )

    def forget(
        self, config: ReceivedConfig, model: nn.Module, extra: StateDict | None, carry_out: Callable[[], Forgotten]
    ) -> Forgotten:
        """See `Device`, and this module for the order; samples are retired even if the bounds forbid the reply."""
        if not self._is_about_request(config):  # another's request: this device helps with what it keeps
            return carry_out()
        mark, replies = self._mark(config), Replies(self._record)
        exercise = _exercise(config, self._received, extra)
        kept = replies.find(mark.request, exercise)
        self._retire(mark)
        if kept is not None:
            return kept
        samples = self.samples(config)
        if config.get(DROP):
            return Forgotten(on_cpu(model.state_dict()), len(samples), 0.0)
        self._bounds.check_reply(self.settings, again=replies.is_answered(mark.request))
        reports = not self.settings.forget_noise  # a loss on the samples tells which they are, as clearly as the model
        before = self._measures(model, samples, "before") if reports else {}
        done = carry_out()
        after = self._measures(model, samples, "after") if reports else {}
        done = replace(done, metrics={**done.metrics, **before, **after})
        replies.keep(mark.request, exercise, done)
        return done

    def noise_seed(self, config: ReceivedConfig) -> int:
        """See `Device`; derived from this device's private key, so that nobody else can take the noise off again.

        The same step on the same model has the same noise, so that asking often averages nothing out; another step of
        the request has another, or their difference would be without any. The run's training makes another step too,
        where a method takes its epochs or batches from there.
        """
        secret, said = hashlib.sha256(self.kit.key_file.read_bytes()).hexdigest(), self.settings
        how = [said.method, options_of(said), said.forget_clip, said.forget_noise, str(config.get("step", ""))]
        step = json.dumps(how, sort_keys=True)
        return derive_seed(0, "noise", secret, str(config.get("request", "")), self._received, step)

    def adds(self, config: ReceivedConfig) -> Mapping[str, Mapping[str, str | bytes]]:
        """Return the commitment to the samples that the reply is about, and an ask that waits to ride in it."""
        digests = self._of_reply(config)
        added = {"config": {"samples-digest": commitment(digests, self._record.salt(digests))}} if digests else {}
        if self._exercise == "forget" and self._is_about_request(config):
            return added
        return {**added, **riding_ask(self.kit, self._record)}

    def _of_reply(self, config: ReceivedConfig) -> Collection[bytes]:
        """Return the digests of the samples that the reply is about: those of a request even if they are gone."""
        if self._exercise != "forget" or not self._is_about_request(config):
            return self._digests
        mark = self._mark(config)
        return mark.digests or [digest for digest, request in self._record.retired().items() if request == mark.request]

    def _is_about_request(self, config: ReceivedConfig) -> bool:
        """Say whether a message is about the samples of a request, as forget messages are unless they say otherwise."""
        which = config.get("samples", "forget" if self._exercise == "forget" else "keep")
        if which not in ("keep", "forget"):
            raise unknown("kind of samples", str(which), ("keep", "forget"))
        return bool(which == "forget")

    def _gather(self, keep: Keep) -> Gathered:
        if not self.kit.data:
            raise InputError(f'the kit {self.kit.folder} names no data: add data = "PATH" to its {FILE}')
        return gather(self.kit.path(self.kit.data), self._form, keep)

    def _of(self, mark: Mark) -> Gathered:
        """Return what a request is about, read once for a message."""
        if mark.request not in self._gathered:
            found = self._gather(self._about(mark))
            gone = self._record.contents({*mark.digests} - {*found.digests})
            if gone:  # stored in another form since it was marked
                found = self._gather(self._about(mark, gone))
            self._gathered[mark.request] = found
        return self._gathered[mark.request]

    def _retire(self, mark: Mark) -> None:
        """Retire what a request is about, with the contents of what is there, and drop what was kept of it."""
        found, asked_here = self._of(mark), self._record.marked(mark.request) is not None
        self._record.retire(mark, zip(found.digests, found.contents, strict=True))
        if not asked_here:
            sys.stderr.write(f"{retired_line(mark.request, mark.labels)}\n")  # to the log of `fedquit join`
            sys.stderr.flush()
        self._record.taken([mark.request])
        shutil.rmtree(_memory_folder(self.kit), ignore_errors=True)

    def _mark(self, config: ReceivedConfig) -> Mark:
        """Return what the request of a message is about.

        Raises:
            InputError: this device does not know the request, or knows it otherwise.
        """
        request, said = str(config.get("request", "")), config.get("granularity")
        if not re.fullmatch("[0-9a-f]{1,64}", request):  # it becomes part of a file's name
            raise InputError(f"request {request!r} is not a request id")
        mark = self._record.marked(request)
        if mark is not None and said in (None, mark.granularity):
            return mark
        if mark is None and said == "client":
            return Mark(request, "client")
        if mark is None and said == "class":
            return Mark(request, "class", labels=tuple(map(self._label, str(config.get("classes", "")).split(","))))
        known = f"it is about {mark.granularity} here, not {said}" if mark else "nothing was marked for it here"
        raise InputError(f"device '{self.kit.name}' cannot serve request {request[:12]}: {known}; ask on the device")

    def _label(self, number: str) -> str:
        """Return how the class of a number is called beside the samples."""
        if not number.strip().isdecimal() or int(number) >= self._form.num_classes:
            raise InputError(f"'{number}' is not a class of the federation; it has 0 to {self._form.num_classes - 1}")
        return self._form.names[int(number)] if self._form.names else str(int(number))

    def _about(self, mark: Mark, contents: frozenset[bytes] = frozenset()) -> Keep:
        """Return what says of a sample whether a request is about it; what another request retired is not again.

        Args:
            mark: the request.
            contents: of marked samples that are to be found in any form.
        """
        marked, retired = frozenset(mark.digests), self._record.retired()
        others = {digest for digest, request in retired.items() if request != mark.request}
        theirs = self._record.contents(others)

        def marked_one(digest: bytes, content: Content | None, label: str) -> bool:
            del label
            if digest in marked or not contents:
                return digest in marked
            return content is None or not contents.isdisjoint(content.digests)

        def left_one(digest: bytes, content: Content | None, label: str) -> bool:
            if digest in others or label not in (mark.labels or [label]):
                return False
            return content is None or theirs.isdisjoint(content.digests)

        return marked_one if mark.granularity == "sample" else left_one

    def _why_nothing(self) -> str:
        left = [mark for mark in self._record.marks() if mark.granularity == "client" and mark.retired_at is not None]
        return f"it left with request {left[0].request[:12]}" if left else f"nothing of {self.kit.data} is left"

    def _why_none(self, mark: Mark) -> str:
        """Say why nothing is there that a request is about: samples may have trained and been deleted since."""
        known = mark.granularity == "sample" and mark.digests  # none: of a request whose samples its owner deleted
        if known and not self._record.has_trained(mark.digests):
            return f"{NOTHING_TO_FORGET}, as none that request {mark.request[:12]} is about ever trained here"
        return f"nothing that request {mark.request[:12]} is about is there any more"

    def _measures(self, model: nn.Module, samples: Samples, when: str) -> dict[str, float]:
        """Return loss and accuracy on the samples to forget, and on unseen ones if the kit names any."""
        sets = {"forget": samples}
        if self.kit.holdout:
            sets["unseen"] = gather(self.kit.path(self.kit.holdout), self._form, lambda *_: True).samples
        measures: dict[str, float] = {}
        for name, those in sets.items():
            with deterministic(0):
                loss, accuracy = evaluate(model, those)
            measures |= {f"{name}-loss-{when}": loss, f"{name}-accuracy-{when}": accuracy}
        return measures


def deployed_device(folder: Path, run_config: Mapping[str, Scalar], run: str, config: ReceivedConfig) -> DeployedDevice:
    """Return the device of the kit in `folder`, in a run of Flower's.

    Args:
        folder: the kit.
        run_config: the run's settings.
        run: its number.
        config: what this message says.

    Raises:
        OutOfBoundsError: a setting from the server is outside the owner's bounds.
    """
    kit = Kit.read(folder)
    return DeployedDevice(kit, deployed_settings(kit, run_config, config), run)


def deployed_settings(kit: Kit, run_config: Mapping[str, Scalar], config: ReceivedConfig) -> Settings:
    """Return the run's settings, with those of this message in their place; nothing is done by settings not checked.

    Raises:
        OutOfBoundsError: the server sets what the device's owner does not let it set.
        InputError: they leave it to data what a model takes, and a device sees its own only.
    """
    late: dict[str, Any] = {key: config[key] for key in TOLD_LATE if key in config}
    settings = Settings.from_run_config({**run_config, **late})
    bounds_of(kit).check(settings, config)
    _form_of(settings)
    return settings


def bounds_of(kit: Kit) -> DeviceBounds:
    """Return the bounds of a kit's owner on what a server may set."""
    return DeviceBounds.read(kit.bounds, str(kit.folder / FILE))


def _form_of(settings: Settings) -> Form:
    form = configured_form(settings)
    if form is None:
        raise InputError("the run config must say classes and input-shape: a device sees its own data only")
    return form


def memory_of(kit: Kit, settings: Settings) -> Memory:
    """Return what the device of a kit keeps from round to round."""
    return Memory.of(_memory_folder(kit), settings, kit.number)


def _memory_folder(kit: Kit) -> Path:
    return kit.path(kit.record).parent / "memory"


def _ids(config: ReceivedConfig, key: str) -> list[str]:
    return [each for each in str(config.get(key, "")).split(",") if re.fullmatch("[0-9a-f]{1,64}", each)]


def _retired(config: ReceivedConfig) -> dict[str, list[str]]:
    """Return the requests whose data the server says this device has retired, with the classes that each was about.

    A server names at most `REMINDED`, the newest last; of a longer list no more are taken.
    """
    entries = (each.split(":") for each in str(config.get("retired", "")).split(",")[-REMINDED:])
    return {entry[0]: entry[1:] for entry in entries if re.fullmatch("[0-9a-f]{64}", entry[0])}


def _answers(config: ReceivedConfig) -> dict[str, str]:
    """Return what the server says became of asks, a code by the id."""
    pairs = (each.split(":") for each in str(config.get("answers", "")).split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and re.fullmatch("[a-z-]{1,40}", pair[1])}


def _exercise(config: ReceivedConfig, received: str, extra: StateDict | None) -> str:
    """Return what tells the exercises of one request apart: the models that came, the step and the seed."""
    parts = [received, model_hash(extra or {}), str(config.get("step", "forget")), str(config.get("seed"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
