"""Small reference networks."""

from search_spaces.models.resnet_cifar import ResNetCifar as ResNetCifar
from search_spaces.models.resnet_cifar import resnet20 as resnet20
from search_spaces.models.resnet_cifar import resnet56 as resnet56
from search_spaces.models.small import DigitsCNN as DigitsCNN
from search_spaces.models.small import digits_cnn as digits_cnn
from search_spaces.models.small import mobilenet_v2 as mobilenet_v2
from search_spaces.models.small import vgg16 as vgg16
