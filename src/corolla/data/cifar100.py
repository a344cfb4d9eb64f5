"""CIFAR-100: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009."""

from __future__ import annotations

from corolla.data.torchvision_pool import TorchvisionPool

FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class Cifar100(TorchvisionPool):
    """50,000 training and 10,000 test images, 32x32 RGB, 100 (fine) classes."""

    name = "cifar100"
    class_names = tuple(FINE_CLASSES.split())
    channels = 3
    resolution = 32
    mean = (0.5071, 0.4865, 0.4409)  # of the official training images, as commonly published
    std = (0.2673, 0.2564, 0.2762)
    files = "cifar-100-python/"
    loader = "CIFAR100"
