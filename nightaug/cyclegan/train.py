"""CycleGAN training: what a step is, and what its state; the loop is :mod:`nightaug.cyclegan.loop`'s."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nightaug import __version__
from nightaug.cyclegan.checkpoint import write_translator
from nightaug.cyclegan.dataset import UnpairedCrops
from nightaug.cyclegan.discriminator_augmentation import augment
from nightaug.cyclegan.faithful_losses import weighted_l1
from nightaug.cyclegan.label_aware import LabelAware, contrast_losses
from nightaug.cyclegan.loop import CropTrainer, Score
from nightaug.cyclegan.losses import discriminator_loss, l1, least_squares
from nightaug.cyclegan.pairs import DiscriminatorPair, GeneratorPair, initialize_pairs
from nightaug.cyclegan.relit import read_relit
from nightaug.cyclegan.replay_buffer import ReplayBuffer
from nightaug.cyclegan.samples import Scorer
from nightaug.cyclegan.segmentation import segmentation_loss
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.losses import weighted_total
from nightaug.training import MovingAverage, accumulate, load_optimizer


class Trainer(CropTrainer):
    """State of one training process; :meth:`run` is the recipe."""

    settings: TranslatorSettings

    def __init__(
        self,
        data: Path,
        run: Path,
        settings: TranslatorSettings,
        cpu: bool = False,
        judge: nn.Module | None = None,
    ) -> None:
        super().__init__(data, run, settings, cpu)
        self.aware = LabelAware(data, self.files, settings, judge) if settings.faithful.labels else None
        self.relit = read_relit(settings.day, data, [*self.files.a, *self.validation.a])

        if self.aware is not None:
            self.fingerprint += f", {self.aware.fingerprint()}"

        classes = self.aware.classes if self.aware is not None and settings.faithful.weights.segmentation else 0
        generators, discriminators = GeneratorPair(settings), DiscriminatorPair(settings, classes)
        initialize_pairs(generators, discriminators, torch.Generator().manual_seed(settings.seed))
        for pair in (generators, discriminators):  # a fifth faster on a CPU in bf16
            pair.to(memory_format=torch.channels_last)
        accelerator = self.accelerator
        self.ema = MovingAverage(generators.to(accelerator.device), settings.ema) if settings.ema else None
        options: dict[str, Any] = {"lr": settings.learning_rate, "betas": (settings.beta1, 0.999)}
        self.generators, self.discriminators, self.opt_g, self.opt_d = accelerator.prepare(
            generators,
            discriminators,
            torch.optim.Adam(generators.parameters(), **options),
            torch.optim.Adam(discriminators.parameters(), **options),
        )
        if self.aware is not None:
            self.aware.to(accelerator.device, generators)
        fakes = ("fake_b",) if settings.objective == "cut" else ("fake_a", "fake_b")
        self.buffers = {key: ReplayBuffer(settings.replay_buffer) for key in fakes}

    # -- one optimiser step ------------------------------------------------------------------------------------

    def step(self, step: int, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step of the generators, then one of the discriminators; raw named losses, averaged over batches."""
        settings, accelerator = self.settings, self.accelerator
        chance = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) * 1009 + accelerator.process_index)
        self.set_rate(step, self.opt_g, self.opt_d)
        parts: dict[str, Tensor] = {}
        share = 1.0 / len(batches)
        judges: DiscriminatorPair = accelerator.unwrap_model(self.discriminators)
        judges.requires_grad_(False)
        self.opt_g.zero_grad()
        fakes, night = [], []
        for at, batch in enumerate(batches):
            with self._sync(self.generators, at == len(batches) - 1), accelerator.autocast():
                out = self.generators(batch["a"], batch["b"], settings.weights.identity > 0)
                raw, watched = self._generator_losses(judges, batch, out, chance)
                accelerator.backward(weighted_total(raw, {name: settings.weight_of(name) for name in raw}) * share)
            fakes.append({key: out[key].detach() for key in self.buffers})
            night += [out[key].detach() for key in self._night_features]
            accumulate(parts, raw | watched, share)
        self.opt_g.step()

        judges.requires_grad_(True)
        self.opt_d.zero_grad()
        for at, (batch, fake) in enumerate(zip(batches, fakes, strict=True)):
            with self._sync(self.discriminators, at == len(batches) - 1), accelerator.autocast():
                raw = self._discriminator_losses(batch, fake, chance)
                accelerator.backward(weighted_total(raw, {name: settings.weight_of(name) for name in raw}) * share)
            accumulate(parts, raw, share)
        self.opt_d.step()
        if self.aware is not None:
            self.aware.observe(batches, night, accelerator)
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(self.generators), step)
        return parts

    @property
    def _night_features(self) -> list[str]:
        layer = self.accelerator.unwrap_model(self.generators).suppressed
        return [] if layer is None else [f"night/{layer}"]

    def _generator_losses(
        self, judges: DiscriminatorPair, batch: dict[str, Tensor], out: dict[str, Tensor], chance: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Raw losses of the generators, and figures that are only watched."""
        settings, names = self.settings, self.settings.augmentation.discriminator
        raw = {"adversarial_a2b": least_squares(judges.B(augment(out["fake_b"], names, chance)), True)}
        if judges.A is not None:
            raw |= {
                "adversarial_b2a": least_squares(judges.A(augment(out["fake_a"], names, chance)), True),
                "cycle_a": self._apart(out["rec_a"], batch, "a"),
                "cycle_b": self._apart(out["rec_b"], batch, "b"),
            }
        if "same_a" in out:
            raw |= {
                "identity_a": self._apart(out["same_a"], batch, "a"),
                "identity_b": self._apart(out["same_b"], batch, "b"),
            }
        generators = self.accelerator.unwrap_model(self.generators)
        raw |= contrast_losses(generators, out, settings, chance)
        if self.aware is None:
            return raw, {}
        own, watched = self.aware.losses(generators, judges.B, batch, out, chance)
        return raw | own, watched

    def _apart(self, image: Tensor, batch: dict[str, Tensor], key: str) -> Tensor:
        """L1 between an image and its original, stronger inside boxes where that is asked for."""
        if self.settings.faithful.inside == 1:
            return l1(image, batch[key])
        return weighted_l1(image, batch[key], batch[f"labels_{key}"], self.settings.faithful.inside)

    def _discriminator_losses(
        self, batch: dict[str, Tensor], fake: dict[str, Tensor], chance: torch.Generator
    ) -> dict[str, Tensor]:
        stored = {key: self.buffers[key].query(fake[key], chance) for key in self.buffers}
        shown = {}
        for key in sorted(stored):  # a before b
            shown[key.replace("fake", "real")], shown[key] = (
                augment(image, self.settings.augmentation.discriminator, chance)
                for image in (batch[key.removeprefix("fake_")], stored[key])
            )
        options = self.settings.faithful
        if options.weights.segmentation:
            shown["segmented"] = batch["b"]  # as it is: its label map knows nothing of augmentation
        logits = self.discriminators(shown)
        raw = {
            f"discriminator_{key[-1]}": discriminator_loss(logits[f"real_{key[-1]}"], logits[key])
            for key in sorted(stored)
        }
        if options.weights.segmentation:
            raw["segmentation"] = segmentation_loss(
                logits["segmented"], batch["labels_b"], options.balance, options.focal
            )
        return raw

    def _sync(self, model: nn.Module, last: bool) -> Any:
        return nullcontext() if last else self.accelerator.no_sync(model)

    # -- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        unwrap = self.accelerator.unwrap_model
        state: dict[str, Any] = {"buffers": {key: buffer.state_dict() for key, buffer in self.buffers.items()}}
        state |= {"best_score": self.best_score, "data": self.fingerprint, **self.means.state()}
        if self.accelerator.is_main_process:
            state |= {
                "generators": unwrap(self.generators).state_dict(),
                "discriminators": unwrap(self.discriminators).state_dict(),
                "opt_g": self.opt_g.optimizer.state_dict(),
                "opt_d": self.opt_d.optimizer.state_dict(),
                "ema": self.ema.network.state_dict() if self.ema is not None else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            if self.aware is not None and self.aware.prototypes is not None:
                state["prototypes"] = self.aware.prototypes.state_dict()
        return state

    def networks(self) -> dict[str, nn.Module | None]:
        """See :meth:`TrainingProcess.networks`."""
        average = None if self.ema is None else self.ema.network
        return {"generators": self.generators, "discriminators": self.discriminators, "moving average": average}

    def write_weights(self, which: str, step: int) -> None:
        used = self.aware.used_night_boxes if self.aware is not None else "none"
        path = self.folder.weights_path(which)
        write_translator(path, self.saved_generators(), self.settings, step, __version__, used, self.relit.strength)

    def saved_generators(self) -> GeneratorPair:
        """The generators that are saved and scored: the moving average where there is one."""
        if self.ema is not None:
            return self.ema.network
        pair: GeneratorPair = self.accelerator.unwrap_model(self.generators)
        return pair

    def load(self, step: int) -> None:
        """Continue from the state of ``step``."""
        own, main = self.read_state_of(step, "images, boxes or another judge")
        unwrap = self.accelerator.unwrap_model
        unwrap(self.generators).load_state_dict(main["generators"])
        unwrap(self.discriminators).load_state_dict(main["discriminators"])
        load_optimizer(self.opt_g.optimizer, main["opt_g"], self.folder.path)
        load_optimizer(self.opt_d.optimizer, main["opt_d"], self.folder.path)
        if self.ema is not None:
            self.ema.network.load_state_dict(main["ema"])
        if self.accelerator.scaler and main["scaler"]:
            self.accelerator.scaler.load_state_dict(main["scaler"])
        if self.aware is not None and self.aware.prototypes is not None:
            self.aware.prototypes.load_state_dict(main["prototypes"])
        for key, buffer in self.buffers.items():
            buffer.load_state_dict(own["buffers"][key], self.accelerator.device)
        self.best_score = main["best_score"]
        self.means.load(own, self.accelerator.device)

    # -- what the recipe asks for ------------------------------------------------------------------------------

    def crops(self) -> UnpairedCrops:
        """See :meth:`CropTrainer.crops`."""
        settings, boxes = self.settings, self.aware.boxes if self.aware is not None else None
        return UnpairedCrops(
            self.files, settings.crop, settings.load_size, settings.augmentation, settings.seed, boxes, self.relit.of
        )

    def scorer(self) -> Score:
        """See :meth:`CropTrainer.scorer`."""
        scorer = Scorer(self.validation, self.settings, self.relit.of)
        return lambda folder, step: scorer(self.saved_generators(), self.accelerator.device, folder, step)
