"""What a method refuses before anything starts, a row each; and what is like it and taken."""

from __future__ import annotations

import re

import pytest

from corolla.errors import RefusedError
from corolla.launch import plan_run
from tests.strategies.conftest import SMALL, small

AGREE = (
    "server_set='none': clients of {} agree on images of the server's.* Use server_set=held_out.*"
    "method.architectures='larges': is not known. Did you mean 'largest'"
)
TRAINED_ON = "would be chosen on images that are trained on"
DRAWN = "method.final_draws=3 train_on_validation=true"
TUNED = "evaluation.deploy=fine_tuned"
SEARCH, STAGE_1 = "method.personal_search", "method.supernet_training"
NO_NORM = (
    r"\Aprivate=\['norm'\]: fedbn: space 'lenet' has no arrays in norm. "
    r"Leave it out, as in private=\[\], or take another space\Z"
)
DISTILS = (
    "server_set='none': fusion=distil trains on images of the server's own.* or method.fusion=average.*"
    "method.architectures='larges': is not known. Did you mean 'largest'"
)
TOO_LARGE = (
    rf"{STAGE_1}.knowledge='largest': takes [\d,]+ multiply-accumulates and .*"
    "limits of client 0, 1.*Use smallest"
)
EVERYBODY = "clients=3 clients_per_round=3 method.search.warmup_rounds=1"
OWN_CLOCK = "method.search.warmup_rounds=1 method.search.clock=participations"
# By hand: one edge after 3 rounds, the first multiple of 3; the other after 6; one round after that.
TOO_SHORT = (
    r"\Aserver_set='none': [^\n]*it has none. Use server_set=held_out, or server_set=dataset[^\n]*\n"
    r"rounds=2: [^\n]*takes 7 rounds[^\n]*rounds=7 or more[^\n]*\Z"
)
AT_ONCE = r"\Amethod.proposals.initial=-1: [^\n]*\nmethod.reward.decay=2: [^\n]*\Z"
OWN_KEYS = (
    r"\Amethod.policy.misfits='ignore': [^\n]*\nmethod.policy.lr=-1: [^\n]*\n"
    r"method.reward.normalise=True: [^\n]*\nmethod.reward.decay=2: [^\n]*\Z"
)
# Its overrides, and what is said of them in all: keys, values, problems and remedies.
# fmt: off
REFUSED: list[tuple[str, str]] = [
    ("apfl method.alpha=1.5", r"method\.alpha=1\.5: is out of range"),
    ("corolla damping=2", r"\Adamping=2: [^\n]*\Z"),
    ("corolla private=[head,haed]", "'haed' is not a part of a model. Did you mean"),
    ("corolla private=head", "private='head': is not a list"),
    ("corolla private=[1]", r"private=\[1\]: is not a list"),
    (f"corolla {TUNED} evaluation.fine_tune_epochs=0", "deploy='fine_tuned': there is no fine-tuning"),
    (f"corolla {TUNED} evaluation.final=none", r"evaluation\.final.*deploy=fine_tuned"),
    ("fedbn space=lenet", NO_NORM),
    ("feddyn private=[head]", "FedDyn: its dual variables pull clients"),
    ("fedkemf private=[head]", r"\Aprivate=\['head'\]: [^\n]*fusion=average"),
    ("fedkemf server_set=none method.architectures=larges", DISTILS),
    ("fedmd private=[head]", r"\Aprivate=\['head'\]: [^\n]*Use private=\[\]"),
    ("fedmd robust=norm_clip", "robust.factor=2.0: limits the steps of models"),
    ("fedmd robust=median robust.factor=2.0", "robust.factor=2.0: limits"),
    ("fedmd server_set=none method.architectures=larges", AGREE.format("FedMD")),
    ("fedmn space=lenet", "has no pools of modules.*space=lenet_modules"),
    ("fedmn private=[head]", "the router travels with the network"),
    ("fedmn method.temperature_end=0", "temperature_end=0"),
    ("fednas method.search_rounds=3", "leaves none of 3 rounds to train what was found"),
    ("fednas train_on_validation=true", f"alpha {TRAINED_ON}"),
    ("fednas space=elastic_cnn", "holds no mixed networks to search in"),
    ("fednas private=[head]", "return alpha beside the whole network"),
    ("fedoras method.paths=8 private=[head]", "get arrays of several networks at once"),
    ("fedoras method.paths=8 method/training=distilled", "return parts of several"),
    ("fedper private=[stages,head,stem]", "fedper: these are all arrays of space.*method=local"),
    ("fedpnas method.policy.personal=[stage9]", "policy.personal.*no dimension's name begins with 'stage9'"),
    ("fedpnas private=[head,stages.9]", r"has no arrays in stages\.9"),
    ("fedrep private=[norm]", r"\Aprivate=\['norm'\]: fedrep keeps heads at the clients"),
    ("fedrod private=[head]", "private=.*its generic head would never be averaged"),
    ("fedrod private=[norm,head]", "private=.*its generic head would never be averaged"),
    ("fedrolex private=[head]", r"\Aprivate=\['head'\]: [^\n]*method=heterofl"),
    ("fedtp space=lenet", "space='lenet': FedTP personalises attention.* space=vit_32"),
    ("fedtp space=vit_32 private=[stages]", "space='vit_32': FedTP personalises attention"),
    ("fedtp space=vit_32 method.hypernetwork.hidden=100000", "chunk=None: the hypernetwork has"),
    ("fiarse method.sizes=[1.0,0.0]", r"sizes=\[1.0, 0.0\]: are not shares of the weights"),
    ("fiarse method.sizes=[1.5]", "are not shares of the weights"),
    ("fiarse method.sizes=[]", "are not shares of the weights"),
    ("fiarse method.threshold=layers", "Did you mean 'layer'"),
    ("fiarse private=[head]", "its submodels are weights from all over the network"),
    ("fiarse robust=median", "has no average of models that the rule could replace"),
    ("global_nas private=[head]", r"\Aprivate=\['head'\]: [^\n]*Use private=\[\]"),
    (f"global_nas {EVERYBODY} rounds=2 method.search.recovery_rounds=3 server_set=none", TOO_SHORT),
    ("global_nas method/search=milenas", "Use method/search=perturbation or method/search=random"),
    ("global_nas space=mobilenetv3_8", r"\Aspace='mobilenetv3_8': [^\n]*no mixed networks to prune[^\n]*\Z"),
    (f"global_nas {EVERYBODY} rounds=4 method.weights=all", r"\Amethod.weights='all': [^\n]*\Z"),
    ("global_nas server_set.images=1797", "pool holds 1797"),
    ("global_nas server_set.images=0 server_set.seed=-1",
     r"\Aserver_set.images=0: [^\n]*\nserver_set.seed=-1: [^\n]*\Z"),
    ("global_nas engine=superlink", "server_set='held_out': [^\n]*Use server_set=dataset"),
    ("global_nas server_set.images=1790 partition.images_per_client=null", "too few images for client"),
    ("hapfnas private=[head]", r"\Aprivate=\['head'\]: [^\n]*method=perfedrlnas"),
    ("hapfnas rounds=2", "rounds=2: leaves no round to retrain.*rounds=3"),
    ("hapfnas server_set=none", "server_set='none'.*images of the server's own"),
    (f"hapfnas {SEARCH}.predictor.initial=4", rf"{SEARCH}.predictor.initial=4.*forest needs"),
    (f"hapfnas {SEARCH}.recalibration_images=1", rf"{SEARCH}.recalibration_images=1"),
    ("hapfnas method.retraining.loss=crossentropy", "retraining.loss='crossentropy': is not known. Did you"),
    (f"hapfnas {STAGE_1}.rounds=0", rf"{STAGE_1}.rounds=0"),
    (f"hapfnas {STAGE_1}.teach=nobody", rf"{STAGE_1}.teach='nobody'"),
    ("hapfnas cap=range cap.low=-0.5", "cap"),
    ("hapfnas train_on_validation=true", f"train_on_validation=True: architectures {TRAINED_ON}"),
    ("hapfnas server_set.images=1", "server_set.images=1: is out of range. Use a whole number, 2"),
    (f"hapfnas cap=range {STAGE_1}.knowledge=largest", TOO_LARGE),
    ("heterofl space=mobilenetv2_8", "has no width rates, which HeteroFL gives to clients"),
    ("heterofl method.assignment=dynamics", "Did you mean 'dynamic'"),
    ("heterofl method.rates=[0.3,1.0]", r"rates=\[0\.3\]: are not rates of the space"),
    ("heterofl method.rates=[]", "are not rates of the space"),
    ("heterofl method.assignment=limits method.rates=[1.0]", "a client's limits decide its rate"),
    ("heterofl trainer.loss=balanced_softmax", "cannot leave out classes that a client lacks"),
    ("knn_per method.lambda_step=0.3", r"method.lambda_step=0\.3: .*such as 0\.1"),
    ("l2gd method.beta=1.5", r"method\.beta=1.5: is out of range"),
    ("l2gd method.p=0.0", r"method\.p=0.0: is out of range"),
    ("l2gd method.p=1.0", r"method\.p=1.0: is out of range"),
    ("local private=[head]", r"\Aprivate=\['head'\]: [^\n]*Use private=\[\]"),
    ("local robust=median", "robust='Median': Local has no average of models"),
    ("per_fedavg method.beta=0.0", r"method.beta=0\.0: .*or null"),
    ("perfed_ckt server_set=none method.architectures=larges", AGREE.format("PerFedCKT")),
    ("perfed_ckt clients_per_round=4 method.clusters=4", "clusters=4: every one of 4 participants .* or 1"),
    ("perfed_ckt method.lambda_public=-1.0", "lambda_public=-1.0: is out of range"),
    (f"perfednas method/proposals=random {DRAWN}", f"architectures {TRAINED_ON}"),
    ("perfednas method/proposals=evolution method.proposals.initial=-1 "
     "method/reward=improvement method.reward.decay=2", AT_ONCE),
    ("perfedrlnas method.policy.lr=-1 method.policy.misfits=ignore method.reward.decay=2 "
     "method.reward.normalise=true", OWN_KEYS),
    ("perfedrlnas method.reward.score=los", "method.reward.score='los': is not known. Did you mean 'loss'"),
    ("perfedrlnas rounds=2 method.settle=0.9 method.warmup_rounds=0", "settle=.*leaves no round to search"),
    ("perfedrlnas rounds=2 method.settle=0.5 method.warmup_rounds=1", "settle=.*leaves no round to search"),
    ("pfedhn method.hypernetwork.hidden=1000000", r"chunk=None: the hypernetwork has 3,\d{3},\d{3},"),
    ("pfedhn method.hypernetwork.lr=1.5", "method.hypernetwork.lr=1.5: is out of range"),
    ("pfedhn method.steps=both", "method.steps='both': is not known"),
    ("pfedhn stage=new_clients", "pfedhn"),
    ("pfedme method.inner_lr=0.14", r"method\.inner_lr=0\.14: times .* the inner steps diverge"),
    ("pfedme method.beta=0", r"method\.beta=0: is out of range"),
    ("scaffold private=[head]", "Scaffold: its control variates pull clients"),
    ("sfl private=[head]", "Sfl: its server compares and smooths whole models"),
    ("sfl method.architecture=fitting", "architecture='fitting'"),
    ("sfl method.graph=given", "graph='given': is not known"),
    (f"spider {OWN_CLOCK} clients=3 clients_per_round=3 rounds=2", r"rounds=2: .* takes 3 rounds.*rounds=3"),
    (f"spider {OWN_CLOCK} clients=4 clients_per_round=2 rounds=5", "rounds=6 or more"),
    (f"spider {EVERYBODY} rounds=2", "rounds=3 or more"),
    ("spider train_on_validation=true", f"operations {TRAINED_ON}"),
    ("spider space=darts_small rounds=400", "holds no mixed networks"),
    ("deepfednas method.proposals.cache.fitness.stages=[1]", r"\Amethod\.proposals\.cache\.fitness\.stages="),
    ("deepfednas method.tiers.fitness.stages=[1]", r"\Amethod\.tiers\.fitness\.stages="),
    ("superfednas server_set=none", "tiers are searched on labelled images of the server's own"),
    ("superfednas method.tiers.shares=[0.001,1.0]", "after 200 draws from space"),
    ("superfednas method.tiers.shares=[1.0,0.5]", "do not ascend"),
    ("superfednas method.fine_tuning.rounds=3", "leaves none of 3 rounds to train the supernet in"),
    ("superfednas method.settle=0.5", "every client deploys the architecture of its tier"),
]
# fmt: on
# What is next to it and may be.
TAKEN = [
    "fedkemf server_set=none method.fusion=average",
    "fedbabu private=[head.]",  # the module that has the classifier
    "fedrep private=[head,norm]",
    "fedrep private=[head.]",
    "fedrod private=[norm]",
    # The network is trained in every round, whoever takes part.
    f"global_nas {OWN_CLOCK} clients=4 clients_per_round=1 rounds=3",
    f"hapfnas {SEARCH}.by=random train_on_validation=true",
    f"hapfnas {SEARCH}.fitness=test train_on_validation=true",
    "heterofl trainer.loss=balanced_softmax method.mask_absent=false",
]


def _overrides(text: str) -> list[str]:
    """Return a method's small federation; where a group is chosen, what the tests set in it is left out."""
    method, *chosen = text.split()
    keys = [one.partition("=")[0].replace("/", ".") for one in chosen]
    needed = small(f"method={method}")[len(SMALL) :]
    kept = [one for one in needed if not any(re.match(rf"{key}[.=]", one) for key in keys)]
    return [*SMALL, *kept, *chosen, "run_dir=unused"]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        plan_run(_overrides(text))
    said = str(refused.value)
    assert re.search(words, said, re.DOTALL), said
    assert all(fault.key and fault.problem and fault.remedy for fault in refused.value.faults)


@pytest.mark.parametrize("text", TAKEN)
def test_what_is_taken(text: str) -> None:
    plan_run(_overrides(text))


@pytest.mark.parametrize("text", ["sfl", "l2gd method.mean_of=known"])
def test_more_models_than_the_memory_holds_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corolla.training.available_memory.available_mib", lambda device: 0.1)
    plan_run(_overrides("l2gd"))  # the mean of a round needs nobody's model afterwards
    with pytest.raises(RefusedError, match=r"a model of each of 4 clients; .* 0 MiB"):
        plan_run(_overrides(text))
