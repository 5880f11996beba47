"""Every preset against the published facts: recipe and settings of its original, typed by hand from the releases."""

import functools

import pytest

from mdistiller.distillers import DISTILLERS
from mdistiller.engine.bounds import check
from mdistiller.engine.cfg import CFG, merge
from mdistiller.engine.index import BENCHMARKS, IMAGENET
from mdistiller.engine.networks import label
from mdistiller.engine.resolve import find_preset
from mdistiller.engine.runs import PROJECT
from mdistiller.engine.values import read_yaml

CONFIGS = PROJECT / "configs"
GRIDS = {f"grids/{path.stem}" for path in CONFIGS.glob("grids/*.yaml")}  # are no presets
FILES = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.yaml")} - GRIDS
MOBILE = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
TRANSFORMERS = ("timm:vit_tiny_patch16_224", "timm:deit_tiny_distilled_patch16_224")


def recipe(batch, epochs, lr, stages, decay=0.1, weight_decay=5e-4, augment="weak", **more):
    values = {"BATCH_SIZE": batch, "EPOCHS": epochs, "LR": lr, "LR_DECAY_STAGES": stages, "LR_DECAY_RATE": decay}
    values |= {"WEIGHT_DECAY": weight_decay, "MOMENTUM": 0.9, "TRAINER": "base", "NESTEROV": False}
    values |= {"NO_DECAY_NORMS": False, "CLIP_GRAD": 0.0, **more}
    return {f"SOLVER.{key}": value for key, value in values.items()} | {"DATASET.AUGMENT": augment}


def mdistiller(lr, epochs=240, **more):
    """The recipe of CIFAR-100 in MDistiller's YAML files."""
    return recipe(64, epochs, lr, [150, 180, 210], **more)


def of_students(name, facts):
    """Its preset for CIFAR-100, and those of the students that train more slowly."""
    return {name: mdistiller(0.05) | facts} | {f"{name}-{student}": mdistiller(0.01) | facts for student in MOBILE}


def imagenet(batch, lr, epochs=100, **more):
    return recipe(batch, epochs, lr, [30, 60, 90], weight_decay=1e-4, **more)


def of_transformers(name, recipe, teacher=None, **facts):
    """A method's presets for vision transformers; `recipe`: of their plain training."""
    facts |= {"DISTILLER.TEACHER": teacher} if teacher else {}
    return {f"{name}-{label(student)}": recipe | facts | {"DISTILLER.STUDENT": student} for student in TRANSFORMERS}


def adamw(batch, epochs):
    values = {"TYPE": "AdamW", "SCHEDULER": "cosine", "WARMUP_EPOCHS": 10, "LABEL_SMOOTHING": 0.1, "LR": 5e-4}
    values |= {"WEIGHT_DECAY": 0.05, "BATCH_SIZE": batch, "EPOCHS": epochs, "TRAINER": "base", "NO_DECAY_NORMS": False}
    return {f"SOLVER.{key}": value for key, value in values.items()} | {"DATASET.AUGMENT": "weak"}


def deit(form):
    return {"DEIT.FORM": form, "DEIT.ALPHA": 0.5, "DEIT.TEMPERATURE": 1.0}


def kd(temperature, ce, weight, standardised=False):
    values = {"KD.TEMPERATURE": temperature, "KD.LOSS.CE_WEIGHT": ce, "KD.LOSS.KD_WEIGHT": weight}
    return values | {"DISTILLER.LOGIT_STANDARDIZATION": standardised}


def dkd(ce, alpha, beta, temperature, warmup, clamp, standardised=False):
    names = ("CE_WEIGHT", "ALPHA", "BETA", "T", "WARMUP", "CLAMP")
    values = zip(names, (ce, alpha, beta, temperature, warmup, clamp), strict=True)
    return {f"DKD.{name}": value for name, value in values} | {"DISTILLER.LOGIT_STANDARDIZATION": standardised}


def sdd(ce, alpha, beta, temperature, warmup, scales):
    names = ("CE_WEIGHT", "ALPHA", "BETA", "T", "WARMUP", "SCALES")
    return {f"SDD.{name}": v for name, v in zip(names, (ce, alpha, beta, temperature, warmup, scales), strict=True)}


def mlkd(views, ce, weight, temperatures, standardised=False):
    values = {"MLKD.VIEWS": views, "MLKD.LOSS.CE_WEIGHT": ce, "MLKD.LOSS.KD_WEIGHT": weight, "MLKD.FORM": "released"}
    return values | {"MLKD.TEMPERATURES": temperatures, "DISTILLER.LOGIT_STANDARDIZATION": standardised}


def rld(alpha, beta, temperature, alpha_temperature, warmup, standardised=False):
    names = ("ALPHA", "BETA", "T", "ALPHA_T", "WARMUP")
    values = dict(zip(names, (alpha, beta, temperature, alpha_temperature, warmup), strict=True)) | {"CE_WEIGHT": 1.0}
    return {f"RLD.{key}": v for key, v in values.items()} | {"DISTILLER.LOGIT_STANDARDIZATION": standardised}


def ttm(section, power, weight):
    return {f"{section}.POWER": power, f"{section}.LOSS.CE_WEIGHT": 1.0, f"{section}.LOSS.KD_WEIGHT": weight}


def wkd(temperature, gamma, feat_weight, sharpen, ratio, grid, projector, decay):
    values = {"T": temperature, "GAMMA": gamma, "SHARPEN": sharpen, "MEAN_COV_RATIO": ratio, "GRID": grid}
    values |= {"PROJECTOR": projector, "COSINE_DECAY_EPOCH": decay, "LAMBDA": 0.05, "ITER": 10, "EPS": 1e-5}
    return {f"WKD.{key}": v for key, v in (values | {"LOSS.CE_WEIGHT": 1.0, "LOSS.FEAT_WEIGHT": feat_weight}).items()}


def catkd(weight, resolution=2, normalise=True):
    return feature("CATKD", weight) | {"CATKD.RESOLUTION": resolution, "CATKD.NORMALISE": normalise}


def weights(section, **losses):
    return {f"{section}.LOSS.{key}_WEIGHT": weight for key, weight in losses.items()}


def semckd(weight):
    return weights("SEMCKD", CE=1, KD=1, FEAT=weight) | {"SEMCKD.TEMPERATURE": 4, "SEMCKD.SOFTNESS": 1}


def initial(section, epochs, lr, stages=()):
    values = {"EPOCHS": epochs, "LR": lr, "LR_DECAY_STAGES": list(stages)}
    return {f"{section}.INITIAL.{key}": value for key, value in values.items()}


def begun(section, epochs=30, lr=0.0):
    return weights(section, CE=1) | initial(section, epochs, lr)


def ft(weight, epochs=30, lr=0.01):
    return feature("FT", weight) | initial("FT", epochs, lr) | {"FT.RATIO": 0.5}


def sskd(ce, epochs, lr, stages):
    names = ("CE_WEIGHT", "KD_WEIGHT", "TF_WEIGHT", "SS_WEIGHT", "T", "SS_T", "TF_RATIO", "SS_RATIO")
    values = zip(names, (ce, 0.9, 2.7, 10, 4, 0.5, 1, 0.75), strict=True)
    return {f"SSKD.{name}": value for name, value in values} | initial("SSKD", epochs, lr, stages)


def srd():
    return weights("SRD", CE=1, FEAT=2, KD=1) | {"SRD.EXPONENT": 4, "SRD.TEMPERATURE": 1}


def dist_plus():
    values = {"BETA": 2, "GAMMA": 2, "IOTA": 1, "KAPPA": 1, "T": 1, "FORM": "released"}
    return weights("DISTPLUS", CE=1, KD=2) | {f"DISTPLUS.{key}": value for key, value in values.items()}


def uskd(alpha, beta, mu):
    return {"USKD.CE_WEIGHT": 1.0, "USKD.ALPHA": alpha, "USKD.BETA": beta, "USKD.MU": mu}


def ctkd(ce, weight, loops, standardised=False):
    values = {"CTKD.LOSS.CE_WEIGHT": ce, "CTKD.LOSS.KD_WEIGHT": weight, "CTKD.CURRICULUM_EPOCHS": loops}
    return values | {"DISTILLER.LOGIT_STANDARDIZATION": standardised}


def clkd():
    return {"CLKD.LOSS.CE_WEIGHT": 0.1, "CLKD.LOSS.KD_WEIGHT": 0.5, "CLKD.LOSS.CORRELATION_WEIGHT": 0.4, "CLKD.BETA": 2}


def rkd():
    return {"RKD.LOSS.CE_WEIGHT": 1, "RKD.LOSS.FEAT_WEIGHT": 1, "RKD.DISTANCE_WEIGHT": 25, "RKD.ANGLE_WEIGHT": 50}


def dist(temperature):
    return {"DIST.CE_WEIGHT": 1.0, "DIST.BETA": 2.0, "DIST.GAMMA": 2.0, "DIST.T": temperature}


def nkd(temperature, gamma):
    return {"NKD.CE_WEIGHT": 1.0, "NKD.T": temperature, "NKD.GAMMA": gamma}


def crd(k):
    values = {"CRD.LOSS.CE_WEIGHT": 1.0, "CRD.LOSS.FEAT_WEIGHT": 0.8, "CRD.FEAT.DIM": 128, "CRD.MODE": "exact"}
    return values | {"CRD.NCE.TEMPERATURE": 0.07, "CRD.NCE.MOMENTUM": 0.5, "CRD.NCE.K": k}


def reviewkd(weight, warmup, widest, preact):
    values = {"REVIEWKD.CE_WEIGHT": 1.0, "REVIEWKD.REVIEWKD_WEIGHT": weight, "REVIEWKD.WARMUP_EPOCHS": warmup}
    return values | {"REVIEWKD.MAX_MID_CHANNEL": widest, "REVIEWKD.STU_PREACT": preact}


def skd(temperature, ce, instance, direction, form="released"):
    values = {"SKD.LOSS.CE_WEIGHT": ce, "SKD.LOSS.INSTANCE_WEIGHT": instance, "SKD.LOSS.DIRECTION_WEIGHT": direction}
    return values | {"SKD.TEMPERATURE": temperature, "SKD.TIKHONOV": 0.1, "SKD.FORM": form}


def feature(section, weight):
    return {f"{section}.LOSS.CE_WEIGHT": 1.0, f"{section}.LOSS.FEAT_WEIGHT": weight}


SCRIPT = recipe(64, 240, 0.1, [150, 180, 210], augment="weak+strong")
OF_PAIR = [("resnet56-resnet20", 2), ("resnet110-resnet32", 2), ("vgg13-vgg8", 6)]
OF_PAIR += [("wrn_40_2-wrn_16_2", 6), ("wrn_40_2-wrn_40_1", 6)]
KD_DOT = kd(4, 0.1, 0.9) | {"SOLVER.DOT.DELTA": 0.075}
SMALL = adamw(128, 240) | {"DISTILLER.STUDENT_ARGS": "{depth: 6, embed_dim: 192, num_heads: 3, patch_size: 4}"}
CIFAR100 = {
    "Vanilla": SCRIPT,
    "DeiT": SCRIPT | deit("soft"),
    **of_transformers("Vanilla", SMALL),
    **of_transformers("DeiT", SMALL, "resnet56", **deit("soft")),
    **of_transformers("DeiT_hard", SMALL, "resnet56", **deit("hard")),
    **of_transformers("SKD", SMALL, "resnet56", **skd(4, 0.1, 0.9, 0.9)),
    "Vanilla_mdistiller": mdistiller(0.05),
    "Vanilla_sdd": SCRIPT | {"SOLVER.LR": 0.05, "SOLVER.WEIGHT_DECAY": 1e-4},
    "KD": SCRIPT | kd(4, 0.1, 0.9),
    "KD_dot": mdistiller(0.05, TRAINER="dot") | KD_DOT,
    **{f"KD_dot-{student}": mdistiller(0.01, TRAINER="dot") | KD_DOT for student in MOBILE},
    "KD_dot_tiny_imagenet": recipe(256, 200, 0.2, [60, 120, 160], TRAINER="dot")
    | {"DATASET.TYPE": "tiny_imagenet", "DISTILLER.TEACHER": "ResNet18", "DISTILLER.STUDENT": "MobileNetV2"}
    | KD_DOT,
    "KD_standardised": mdistiller(0.05) | kd(2, 0.1, 9, True),
    **{f"KD_standardised-{student}": mdistiller(0.01) | kd(2, 0.1, 9, True) for student in MOBILE},
    "DKD": SCRIPT | dkd(2, 3, 6, 4, 20, 10),
    "DKD_cvpr2022": mdistiller(0.05) | dkd(1, 1, 8, 4, 20, 0),
    **{f"DKD_cvpr2022-{student}": mdistiller(0.01) | dkd(1, 1, 8, 4, 20, 0) for student in MOBILE},
    **{f"DKD_cvpr2022-{pair}": mdistiller(0.05) | dkd(1, 1, beta, 4, 20, 0) for pair, beta in OF_PAIR},
    "DKD_cvpr2022-vgg13-MobileNetV2": mdistiller(0.01) | dkd(1, 1, 6, 4, 20, 0),
    "DKD_standardised": mdistiller(0.05) | dkd(1, 9, 72, 2, 20, 0, True),
    **{f"DKD_standardised-{student}": mdistiller(0.01) | dkd(1, 9, 72, 2, 20, 0, True) for student in MOBILE},
    "CLKD": SCRIPT | clkd(),
    "MLKD": SCRIPT | mlkd(1, 0.5, 0.5, [4, 3, 2]),
    "MLKD_two_view": mdistiller(0.025, augment="two-view") | mlkd(2, 0.1, 0.9, [4, 3, 5, 2, 6]),
    **{
        f"MLKD_two_view-{student}": mdistiller(0.01, 480, augment="two-view") | mlkd(2, 0.1, 0.9, [4, 3, 5, 2, 6])
        for student in MOBILE
    },
    **{
        f"MLKD_standardised{pair}": mdistiller(lr, epochs, augment="two-view") | mlkd(2, 0.1, 9, [2, 3, 5, 2, 6], True)
        for pair, lr, epochs in [
            ("", 0.025, 480),
            *((f"-{student}", 0.01, 480) for student in MOBILE),
            ("-resnet32x4-ShuffleV1", 0.01, 960),
            ("-resnet32x4-ShuffleV2", 0.01, 960),
            ("-vgg13-vgg8", 0.01, 480),
            ("-wrn_40_2-MobileNetV2", 0.005, 480),
        ]
    },
    "SKD": SCRIPT | skd(4, 0.1, 0.9, 0.9),
    "SKD-resnet32x4-resnet8x4": SCRIPT | skd(4, 0.5, 0.5, 0.5),
    "SKD_paper": SCRIPT | skd(4, 0.1, 14.4, 1, "paper"),
    "SDD": SCRIPT | {"SOLVER.LR": 0.01} | sdd(2, 3, 6, 4, 20, [1, 2, 4]),
    "SDD_cvpr2024": mdistiller(0.05) | sdd(1, 1, 8, 4, 20, [1, 2, 4]),
    **{f"SDD_cvpr2024-{student}": mdistiller(0.01) | sdd(1, 1, 8, 4, 20, [1, 2, 4]) for student in MOBILE},
    **{
        f"SDD_cvpr2024-{pair}": mdistiller(0.05) | sdd(1, 1, beta, 4, 20, [1, 2] if pair == "vgg13-vgg8" else [1, 2, 4])
        for pair, beta in OF_PAIR
    },
    **{
        f"SDD_cvpr2024-{pair}": mdistiller(0.01) | sdd(1, 1, 6, 4, 20, [1, 2, 4])
        for pair in ("vgg13-MobileNetV2", "vgg13-ShuffleV1", "wrn_40_2-MobileNetV2")
    },
    "FitNet": SCRIPT | feature("FITNET", 100) | {"FITNET.HINT_LAYER": 2},
    "RKD": SCRIPT | rkd(),
    "CRD": SCRIPT | crd(4096),
    "CRD_iclr2020": mdistiller(0.05) | crd(16384),
    **{f"CRD_iclr2020-{student}": mdistiller(0.01) | crd(16384) for student in MOBILE},
    "OFD": SCRIPT | feature("OFD", 0.001) | {"OFD.CONNECTOR.KERNEL_SIZE": 1},
    "ReviewKD": SCRIPT | reviewkd(1, 20, 512, False),
    "AT": SCRIPT | feature("AT", 1000),
    "NST": SCRIPT | feature("NST", 50),
    "PKT": SCRIPT | feature("PKT", 30000),
    "SP": SCRIPT | feature("SP", 3000),
    "VID": SCRIPT | feature("VID", 1),
    "KDSVD": SCRIPT | feature("KDSVD", 1),
    "DIST": mdistiller(0.05) | dist(4),
    **{f"DIST-{student}": mdistiller(0.01) | dist(4) for student in MOBILE},
    "USKD": recipe(128, 200, 0.1, [60, 120, 160], decay=0.2) | uskd(0.1, 0.1, 0.1),
    "NKD": recipe(128, 200, 0.1, [60, 120, 160], decay=0.2) | nkd(3, 3.5),
    "CTKD": mdistiller(0.05) | ctkd(0.1, 0.9, 10),
    **{f"CTKD-{student}": mdistiller(0.01) | ctkd(0.1, 0.9, 10) for student in MOBILE},
    **of_students("RLD", rld(1, 8, 4, 1, 20)),
    **of_students("RLD_standardised", rld(9, 72, 2, 2, 20, True)),
    **of_students("TTM", ttm("TTM", 0.1, 45)),
    **of_students("WTTM", ttm("WTTM", 0.2, 4)),
    **of_students("WKD", wkd(8, 200, 0.08, 1, 8, 1, "conv1x1", 150)),
    "WKD-wrn_40_2-ShuffleV1": mdistiller(0.01) | wkd(4, 60, 0.5, 1, 3, 4, "conv1x1", 150),
    "WKD_logits": mdistiller(0.05) | wkd(8, 600, 0, 1, 8, 1, "conv1x1", 150),
    "WKD_logits-wrn_40_2-ShuffleV1": mdistiller(0.01) | wkd(6, 200, 0, 1, 8, 1, "conv1x1", 150),
    "WKD_features": mdistiller(0.05) | wkd(8, 0, 0.08, 1, 4, 1, "conv1x1", 150),
    "WKD_features-wrn_40_2-ShuffleV1": mdistiller(0.01) | wkd(8, 0, 0.3, 1, 3, 4, "conv1x1", 150),
    **of_students("CATKD", catkd(400)),
    **{
        f"CATKD-{pair}": mdistiller(0.05) | catkd(weight, normalise=False)
        for pair, weight in [
            *(("resnet110-resnet32", 1.8), ("resnet32x4-resnet8x4", 15), ("resnet56-resnet20", 0.7)),
            *(("vgg13-vgg8", 4.5), ("wrn_40_2-wrn_16_2", 12), ("wrn_40_2-wrn_40_1", 1.5)),
        ]
    },
    **{
        f"CATKD-{pair}": mdistiller(0.01) | catkd(weight, resolution)
        for pair, weight, resolution in [
            *(("resnet32x4-ShuffleV1", 600, 4), ("resnet32x4-ShuffleV2", 600, 4), ("wrn_40_2-ShuffleV1", 80, 4)),
            *(("ResNet50-MobileNetV2", 40, 2), ("vgg13-MobileNetV2", 15, 2)),
        ]
    },
    **of_students("SimKD", weights("SIMKD", CE=0, FEAT=1)),
    **of_students("SRRL", weights("SRRL", CE=1, FEAT=1, KD=1)),
    **of_students("OFAKD", weights("OFAKD", CE=1, FEAT=1, KD=1) | {"OFAKD.EPS": 1}),
    **of_students("CC", feature("CC", 0.02) | {"CC.DIM": 128}),
    **of_students("SemCKD", semckd(400)),
    **of_students("AB", begun("AB") | {"AB.MARGIN": 1}),
    **of_students("FT", ft(200)),
    "FT-vgg8": mdistiller(0.05) | ft(200, lr=0.05),
    **of_students("FSP", begun("FSP")),
    **of_students("SSKD", sskd(0.1, 60, 0.05, [30, 45])),
    **of_students("SRD", srd()),
    **of_students("DISTPlus", dist_plus()),
    "CTKD_standardised": mdistiller(0.05) | ctkd(0.1, 9, 10, True),
    **{f"CTKD_standardised-{student}": mdistiller(0.01) | ctkd(0.1, 9, 10, True) for student in MOBILE},
}
REGNETY = "timm:regnety_160.tv2_in1k"
OF_IMAGENET = {
    "Vanilla": imagenet(512, 0.2),
    # The SKD release's vision transformers
    **of_transformers("Vanilla", adamw(1024, 300)),
    **of_transformers("DeiT", adamw(1024, 300), REGNETY, **deit("soft")),
    **of_transformers("DeiT_hard", adamw(1024, 300), REGNETY, **deit("hard")),
    **of_transformers("SKD", adamw(1024, 300), REGNETY, **skd(1, 0.1, 0.9, 0.9)),
    # The SKD release's script
    "script": imagenet(64, 0.1),
    "KD": imagenet(64, 0.1) | kd(4, 0.1, 0.9),
    "DKD": imagenet(64, 0.1) | dkd(2, 3, 6, 4, 20, 10),
    "CLKD": imagenet(64, 0.1) | clkd(),
    "MLKD": imagenet(64, 0.1) | mlkd(1, 0.5, 0.5, [4, 3, 2]),
    "AT": imagenet(64, 0.1) | feature("AT", 1000),
    "SKD": imagenet(64, 0.1) | skd(1, 0.1, 0.9, 0.9),
    "ReviewKD": imagenet(64, 0.1) | reviewkd(1, 1, 512, True),
    "OFD": imagenet(64, 0.1) | feature("OFD", 1e-3),
    "RKD": imagenet(64, 0.1) | rkd(),
    # MDistiller
    "KD_mdistiller": imagenet(512, 0.2) | kd(1, 0.5, 0.5),
    "KD_dot": imagenet(512, 0.2, TRAINER="dot") | kd(1, 0.5, 0.5) | {"SOLVER.DOT.DELTA": 0.09},
    "AT_mdistiller": imagenet(512, 0.2) | feature("AT", 1000),
    "DKD_cvpr2022": imagenet(512, 0.2) | dkd(1, 1, 0.5, 1, 1, 0),
    "DKD_cvpr2022-ResNet50-MobileNetV1": imagenet(512, 0.2) | dkd(1, 1, 2, 1, 1, 0),
    "ReviewKD_mdistiller": imagenet(256, 0.1) | reviewkd(1, 1, 512, True),
    "ReviewKD_mdistiller-ResNet50-MobileNetV1": imagenet(256, 0.1) | reviewkd(8, 1, 256, True),
    "CRD": imagenet(256, 0.1) | crd(16384),
    "OFD_mdistiller": imagenet(128, 0.05) | feature("OFD", 1e-4),
    # The methods' own releases
    "DIST": imagenet(256, 0.1, NESTEROV=True, NO_DECAY_NORMS=True) | dist(1),
    "CTKD": imagenet(256, 0.1, 120) | ctkd(1, 1, 5),
    "SDD": imagenet(512, 0.2) | sdd(1, 1, 0.5, 1, 1, [1, 2]),
    "SDD-ResNet50-MobileNetV2": imagenet(512, 0.2) | sdd(1, 1, 2, 1, 1, [1, 2, 4]),
    "MLKD_two_view": imagenet(512, 0.1, augment="two-view") | mlkd(2, 0.5, 0.5, [1, 3, 5, 2, 6]),
    "MLKD_two_view-ResNet50-MobileNetV2": imagenet(512, 0.2, augment="two-view") | mlkd(2, 0.5, 0.5, [1, 3, 5, 2, 6]),
    "NKD": imagenet(256, 0.1) | nkd(1, 1.5),
    "NKD-ResNet50-MobileNetV1": imagenet(256, 0.1, CLIP_GRAD=5.0) | nkd(1, 1.5),
    "RLD": imagenet(512, 0.2) | rld(1, 0.5, 1, 1, 1),
    "RLD-ResNet50-MobileNetV1": imagenet(512, 0.2) | rld(1, 2, 1, 1, 1),
    "WKD": imagenet(256, 0.1) | wkd(2, 10, 1, 1, 2, 4, "bottleneck", 0),
    "WKD-ResNet50-MobileNetV1": imagenet(256, 0.1) | wkd(2, 25, 0.005, 2, 2, 4, "bottleneck", 0),
    "WKD_logits": imagenet(256, 0.1) | wkd(2, 30, 0, 1, 2, 4, "bottleneck", 0),
    "WKD_logits-ResNet50-MobileNetV1": imagenet(256, 0.1) | wkd(2, 25, 0, 2, 2, 4, "bottleneck", 0),
    "WKD_features": imagenet(256, 0.1) | wkd(2, 0, 0.02, 1, 2, 4, "bottleneck", 0),
    "WKD_features-ResNet50-MobileNetV1": imagenet(256, 0.1) | wkd(2, 0, 0.005, 1, 2, 4, "bottleneck", 30),
    "CATKD": imagenet(512, 0.2) | catkd(0.5, 4, False),
    "CATKD-ResNet50-MobileNetV2": imagenet(512, 0.2) | catkd(10),
    "SimKD": imagenet(256, 0.1, 120) | weights("SIMKD", CE=0, FEAT=1),
    "SRRL": imagenet(512, 0.2) | weights("SRRL", CE=1, FEAT=1, KD=1),
    "OFAKD": imagenet(512, 0.1) | weights("OFAKD", CE=1, FEAT=1, KD=1) | {"OFAKD.EPS": 1.5},
    "SemCKD": recipe(256, 90, 0.1, [30, 60], weight_decay=1e-4) | semckd(50),
    "USKD": imagenet(256, 0.1) | uskd(1, 0.1, 0.005),
    # torchdistill
    "FT": recipe(256, 90, 0.1, [30, 60], weight_decay=1e-4) | ft(1000, epochs=1),
    "SSKD": recipe(256, 100, 0.1, [30, 60, 90]) | sskd(1, 30, 0.1, [10, 20]),
    "SRD": imagenet(256, 0.1) | srd(),
    "DISTPlus": imagenet(256, 0.1) | dist_plus(),
    # No release trains them on ImageNet
    "AB": imagenet(512, 0.2) | begun("AB") | {"AB.MARGIN": 1},
    "FSP": imagenet(512, 0.2) | begun("FSP"),
    "CC": imagenet(512, 0.2) | feature("CC", 0.02) | {"CC.DIM": 128},
    "TTM": imagenet(512, 0.2) | ttm("TTM", 0.1, 45),
    "WTTM": imagenet(512, 0.2) | ttm("WTTM", 0.2, 4),
    "FitNet": imagenet(512, 0.2) | feature("FITNET", 100) | {"FITNET.HINT_LAYER": 2},
    "NST": imagenet(512, 0.2) | feature("NST", 50),
    "PKT": imagenet(512, 0.2) | feature("PKT", 30000),
    "SP": imagenet(512, 0.2) | feature("SP", 3000),
    "VID": imagenet(512, 0.2) | feature("VID", 1),
    "KDSVD": imagenet(512, 0.2) | feature("KDSVD", 1),
    "DeiT": imagenet(512, 0.2) | deit("soft"),
}
FACTS = {f"cifar100/{name}": facts for name, facts in CIFAR100.items()}
FACTS |= {f"imagenet/{name}": facts for name, facts in OF_IMAGENET.items()}


def config_of(name):
    cfg = CFG.clone()
    merge(cfg, read_yaml(CONFIGS / f"{name}.yaml"), name)
    return cfg


def test_every_preset_is_held_to_the_facts():
    assert set(FACTS) == FILES - {"cifar100/demo"}


@pytest.mark.parametrize("name", FACTS)
def test_preset_is_its_original(name):
    cfg = config_of(name)
    check(cfg, DISTILLERS[cfg.DISTILLER.TYPE])
    facts = {"DATASET.TYPE": name.split("/")[0], **FACTS[name]}
    actual = {key: functools.reduce(lambda node, part: node[part], key.split("."), cfg) for key in facts}
    assert actual == facts


@pytest.mark.parametrize("name", sorted(FILES - {"cifar100/demo", "imagenet/script"}))
def test_preset_s_name_says_its_method_and_pair(name):
    method, *pair = name.split("/")[1].split("-")
    chosen = config_of(name).DISTILLER
    assert DISTILLERS[chosen.TYPE].__name__ == method.split("_")[0]
    assert [label(chosen.TEACHER), label(chosen.STUDENT)][2 - len(pair) :] == pair


@pytest.mark.parametrize(
    ("benchmark", "method", "teacher", "student", "name"),
    [
        ("cifar100", "CTKD", "vgg13", "ShuffleV1", "CTKD-ShuffleV1"),
        ("cifar100", "CTKD", "vgg13", "vgg8", "CTKD"),
        ("cifar100", "SKD", "resnet32x4", "resnet8x4", "SKD-resnet32x4-resnet8x4"),
        ("cifar100", "SDD", "vgg13", "ShuffleV1", "SDD"),
        ("imagenet", "NKD", "ResNet50", "MobileNetV1", "NKD-ResNet50-MobileNetV1"),
        ("imagenet", "SDD", "ResNet50", "MobileNetV2", "SDD-ResNet50-MobileNetV2"),
        ("imagenet", "SDD", "ResNet34", "MobileNetV2", "SDD"),
        ("imagenet", "DEIT", "ResNet50", TRANSFORMERS[1], "DeiT-timm.deit_tiny_distilled_patch16_224"),
        ("imagenet", "DEIT", "ResNet50", f"{TRANSFORMERS[0]}.augreg_in21k", "DeiT-timm.vit_tiny_patch16_224"),
        ("cifar100", "SKD", "resnet56", TRANSFORMERS[0], "SKD-timm.vit_tiny_patch16_224"),
    ],
)
def test_the_most_specific_preset_is_picked(benchmark, method, teacher, student, name):
    chosen = {"TYPE": method, "TEACHER": teacher, "STUDENT": student}
    assert find_preset(BENCHMARKS[benchmark], DISTILLERS[method], chosen) == CONFIGS / benchmark / f"{name}.yaml"


def test_a_method_without_a_preset_trains_by_the_recipe():
    assert find_preset(IMAGENET, DISTILLERS["NONE"], {"STUDENT": "ResNet18"}) == CONFIGS / "imagenet/Vanilla.yaml"
