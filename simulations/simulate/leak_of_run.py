"""What the last request of a run told: to the server, and to the other devices.

The server sees the model before the request and the one that the asking device returned; the other devices see the
model before it and the next one that they are sent; where that contains a round of others too (`adopt = deferred`),
they subtract the step of the last round of training. For control the same attacks are made on a pair between which
nothing was forgotten, the last round of training.
"""

from fedquit.client.data.build_data_and_model import empty_model, form_of
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.training.build_objective import check_global_model
from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.run.phases import nth
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.unlearning.leak.observation import Observation
from fedquit.unlearning.leak.pair_leak import leak_of_pair
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import StateDict, tensors_of

LIMITS = (
    "a leak that these attacks do not find may be found by others",
    "of several devices that ask together, the server sees the model of each; attacked is their mean",
)


def leak_of_run(folder: RunFolder) -> Document:
    """Return what the attacks find, for each that may look: "server", "device", and the "control".

    Raises:
        InputError: no request of the run has been served, or devices share no model.
    """
    settings, state = folder.settings(), folder.load_state()
    check_global_model(settings, "--leak")
    sets = sets_of(settings)
    forgotten = sets.forget.subset((sets.requests == settings.num_requests - 1).nonzero().flatten())
    seen = observations(folder, settings, state)
    return {
        **{
            who: leak_of_pair(
                empty_model(settings.key()),
                pair,
                forgotten,
                sets.retain,
                form_of(settings).num_classes,
                seed=derive_seed(settings.seed, "leak"),
            )
            for who, pair in seen.items()
        },
        "limits": list(LIMITS),
    }


def observations(folder: RunFolder, settings: Settings, state: State) -> dict[str, Observation]:
    """Return who saw which two models; the control is missing where fewer than two rounds were trained."""

    def model(name: str) -> StateDict:
        held = tensors_of(folder.load_model(name))
        return {name: held[name] for name in empty_model(settings.key()).state_dict()}

    last = settings.num_requests - 1
    start, result = ("original" if not last else nth("recovered", last - 1)), nth("unlearned", last)
    if result not in state.models:
        raise InputError(f"--leak: the run in {folder.path} has no model after its last request")
    before, sent = model(state.models[start]), state.models.get(nth("adopted", last), state.models[result])
    training = state.recent.get("train", ())[-2:]
    rounds = Observation(*map(model, training)) if len(training) > 1 else None
    usual = rounds.step(empty_model(settings.key())) if rounds and sent != state.models[result] else None
    found = {
        "server": Observation(before, model(state.models[result])),
        "device": Observation(before, model(sent), usual),
    }
    return found if rounds is None else {**found, "control": rounds}
