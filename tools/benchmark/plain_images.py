"""The plain way to batches of small images, one at a time."""

from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms

from tests.dataset.pil_oracle import PlainDistortion

from .workload import SIDE, STATISTICS


class PlainImages(Dataset):
    """Small images as PIL images in a list, augmented and normalised one at a time by torchvision's transforms v1."""

    def __init__(self, image_set, augment):
        self.pictures = [Image.fromarray(image) for image in image_set.images.permute(0, 2, 3, 1).numpy()]
        self.targets = image_set.targets.tolist()
        steps = [transforms.ToTensor(), transforms.Normalize(*STATISTICS)]
        if augment == "strong":
            steps.insert(0, PlainDistortion())
        if augment != "none":
            steps = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), *steps]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, row):
        return self.transform(self.pictures[row]), self.targets[row], row


def plain_loader(image_set, batch_size, augment, workers, shuffle=True):
    """Batches (image, target, index); "weak+strong" has every image in both views, as a `Loader` has."""
    views = [PlainImages(image_set, view) for view in augment.split("+")]
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(ConcatDataset(views), batch_size, shuffle, **options)
