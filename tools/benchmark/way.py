"""What all ways to train have in common."""

from .memory import with_peak_memory
from .profiling import profile_steps
from .workload import first_images

WARM_UP_STEPS = 4  # compiling, autotuning and recording CUDA graphs take up to three


class Way:
    """A way to train on `image_set`: `loader` makes an epoch of it, which `train_on` runs."""

    def prepare(self):
        """Warm up and start the loader's workers; returns the MiB that the GPU gave for the first steps."""
        few = first_images(self.image_set, WARM_UP_STEPS * self.cfg.SOLVER.BATCH_SIZE)
        _, memory = with_peak_memory(lambda: self.train_on(self.loader(few)), self.device)
        self.epoch = self.loader(self.image_set)
        next(iter(self.epoch))
        return memory

    def train_epoch(self):
        self.train_on(self.epoch)

    def profile(self):
        return profile_steps(self)
