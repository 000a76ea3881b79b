"""Networks of torchvision, timm and transformers, small and with random weights: name -> (network, example input).

What needs a library that is not there raises ImportError when it is built.
"""

import importlib
from functools import partial

import torch
import torchvision
from torch import nn


class Answers(nn.Module):
    """A network of transformers, which answers one tensor of what it computes."""

    def __init__(self, model, answer):
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, *args):
        return getattr(self.model(*args), self.answer)


def picture(size=64):
    return torch.randn(1, 3, size, size)


def detected(size=96):
    return [[torch.rand(3, size, size)]]


def clip(*shape):
    return torch.randn(1, *(shape or (3, 4, 32, 32)))


def tokens(number=12, vocabulary=100):
    return torch.randint(3, vocabulary, (1, number))


def classifier(name, size=64, **options):
    return torchvision.models.get_model(name, weights=None, **options), picture(size)


def narrow_head(name, size, width=256):
    """A network whose three linear layers at the end, most of its weights, are narrower than published."""
    model, image = classifier(name, size)
    linear = [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
    into = model.classifier[linear[0]].in_features
    for i in linear:
        out = width if i != linear[-1] else model.classifier[i].out_features
        model.classifier[i], into = nn.Linear(into, out), out
    return model, image


def vision_transformer():
    options = {"image_size": 64, "patch_size": 16, "num_layers": 3, "num_heads": 12, "hidden_dim": 768}
    return torchvision.models.VisionTransformer(**options, mlp_dim=3072), picture()


def torchvision_model(name, example, **options):
    return torchvision.models.get_model(name, weights=None, **options), example()


def timm_model(name, size=64, **options):
    return importlib.import_module("timm").create_model(name, pretrained=False, **options), picture(size)


def transformer(name, config, example, answer="logits", part=None, **options):
    library = importlib.import_module("transformers")
    model = getattr(library, name)(getattr(library, config)(**options))
    return Answers(model if part is None else getattr(model, part), answer), example()


WIDE = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": 100}
TEXT = {**WIDE, **SPECIAL, "max_position_embeddings": 32}
IMAGE = {**WIDE, "image_size": 64, "patch_size": 16}
HEADLESS = {"weights_backbone": None}

TORCHVISION = {
    **{
        name: partial(classifier, name)
        for name in (
            "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "squeezenet1_0", "densenet121",
            "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "shufflenet_v2_x1_0",
            "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny", "swin_t",
        )
    },
    "alexnet": partial(narrow_head, "alexnet", 64),
    "vgg16_bn": partial(narrow_head, "vgg16_bn", 32),
    "googlenet": partial(classifier, "googlenet", init_weights=False),
    "inception_v3": partial(classifier, "inception_v3", 299, init_weights=False),
    "vit_b_16": vision_transformer,
}  # fmt: skip
DETECTORS = (
    "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn",
)  # fmt: skip
MORE_TORCHVISION = {
    "maxvit_t": partial(classifier, "maxvit_t", 224),
    "swin_v2_t": partial(classifier, "swin_v2_t"),
    "r3d_18": partial(torchvision_model, "r3d_18", clip),
    "mvit_v2_s": partial(torchvision_model, "mvit_v2_s", partial(clip, 3, 16, 224, 224)),
    "swin3d_t": partial(torchvision_model, "swin3d_t", clip),
    "raft_small": partial(torchvision_model, "raft_small", lambda: (picture(128), picture(128))),
    **{
        name: partial(torchvision_model, name, picture, **HEADLESS)
        for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
    },
    **{
        name: partial(torchvision_model, name, detected, **HEADLESS)
        for name in DETECTORS
    },
}  # fmt: skip
TIMM = {
    "timm/vit_tiny": partial(timm_model, "vit_tiny_patch16_224", img_size=64, depth=2),
    "timm/deit_tiny_distilled": partial(timm_model, "deit_tiny_distilled_patch16_224", img_size=64, depth=2),
    "timm/swin_tiny": partial(timm_model, "swin_tiny_patch4_window7_224", 112, img_size=112),
    "timm/swinv2_tiny": partial(timm_model, "swinv2_tiny_window8_256", img_size=64),
    "timm/beit_base": partial(timm_model, "beit_base_patch16_224", img_size=64, depth=2),
    "timm/eva02_tiny": partial(timm_model, "eva02_tiny_patch14_224", 56, img_size=56, depth=2, num_classes=10),
    "timm/cait_xxs24": partial(timm_model, "cait_xxs24_224", img_size=64, depth=2),
    "timm/xcit_nano": partial(timm_model, "xcit_nano_12_p16_224", img_size=64, depth=2),
    "timm/pvt_v2_b0": partial(timm_model, "pvt_v2_b0"),
    "timm/poolformer_s12": partial(timm_model, "poolformer_s12"),
    "timm/convnextv2_atto": partial(timm_model, "convnextv2_atto"),
    "timm/mixer_s16": partial(timm_model, "mixer_s16_224", img_size=64),
    "timm/resmlp_12": partial(timm_model, "resmlp_12_224", img_size=64),
    "timm/coatnet_nano": partial(timm_model, "coatnet_nano_rw_224", img_size=224, size=224),
    "timm/mobilevit_xxs": partial(timm_model, "mobilevit_xxs"),
    "timm/efficientformer_l1": partial(timm_model, "efficientformer_l1", 224),
    "timm/levit_128s": partial(timm_model, "levit_128s", 224),
    "timm/resnest14d": partial(timm_model, "resnest14d"),
    "timm/skresnet18": partial(timm_model, "skresnet18"),
    "timm/ecaresnet26t": partial(timm_model, "ecaresnet26t"),
    "timm/res2net50_26w_4s": partial(timm_model, "res2net50_26w_4s"),
    "timm/cspresnet50": partial(timm_model, "cspresnet50"),
    "timm/hrnet_w18_small": partial(timm_model, "hrnet_w18_small"),
    "timm/ghostnet_100": partial(timm_model, "ghostnet_100"),
    "timm/fasternet_t0": partial(timm_model, "fasternet_t0"),
    "timm/repvgg_a0": partial(timm_model, "repvgg_a0"),
    "timm/nfnet_l0": partial(timm_model, "nfnet_l0"),
    "timm/volo_d1": partial(timm_model, "volo_d1_224", 224),
    "timm/crossvit_9": partial(timm_model, "crossvit_9_240", 240),
    "timm/edgenext_xx_small": partial(timm_model, "edgenext_xx_small"),
    "timm/davit_tiny": partial(timm_model, "davit_tiny", 224),
}
TRANSFORMERS = {
    "hf/vit": partial(transformer, "ViTForImageClassification", "ViTConfig", picture, **IMAGE),
    "hf/deit": partial(transformer, "DeiTForImageClassification", "DeiTConfig", picture, **IMAGE),
    "hf/beit": partial(transformer, "BeitForImageClassification", "BeitConfig", picture, **IMAGE),
    "hf/dinov2": partial(transformer, "Dinov2ForImageClassification", "Dinov2Config", picture, **IMAGE),
    "hf/swin": partial(
        transformer, "SwinForImageClassification", "SwinConfig", picture, image_size=64, embed_dim=48, depths=[2, 2],
        num_heads=[3, 6], window_size=4,
    ),
    "hf/segformer": partial(
        transformer, "SegformerForSemanticSegmentation", "SegformerConfig", picture, depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 96], num_attention_heads=[1, 2, 4, 6], decoder_hidden_size=64,
    ),
    "hf/convnextv2": partial(
        transformer, "ConvNextV2ForImageClassification", "ConvNextV2Config", picture, depths=[1, 1, 2, 1],
        hidden_sizes=[24, 32, 64, 96],
    ),
    "hf/clip_vision": partial(
        transformer, "CLIPVisionModelWithProjection", "CLIPVisionConfig", picture, "image_embeds", **IMAGE
    ),
    "hf/clip_text": partial(
        transformer, "CLIPTextModelWithProjection", "CLIPTextConfig", tokens, "text_embeds", **TEXT
    ),
    "hf/detr": partial(
        transformer, "DetrForObjectDetection", "DetrConfig", picture, use_timm_backbone=False,
        use_pretrained_backbone=False, d_model=96, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=192, decoder_ffn_dim=192, num_queries=10,
    ),
    "hf/bert": partial(transformer, "BertForMaskedLM", "BertConfig", tokens, **TEXT),
    "hf/distilbert": partial(
        transformer, "DistilBertForSequenceClassification", "DistilBertConfig", tokens, **SPECIAL, dim=96,
        hidden_dim=192, n_layers=2, n_heads=4, max_position_embeddings=32,
    ),
    "hf/roberta": partial(transformer, "RobertaForSequenceClassification", "RobertaConfig", tokens, **TEXT),
    "hf/gpt2": partial(
        transformer, "GPT2LMHeadModel", "GPT2Config", tokens, **SPECIAL, n_positions=32, n_embd=96, n_layer=2,
        n_head=4,
    ),
    "hf/bloom": partial(
        transformer, "BloomForCausalLM", "BloomConfig", tokens, **SPECIAL, hidden_size=96, n_layer=2, n_head=4
    ),
    "hf/llama": partial(transformer, "LlamaForCausalLM", "LlamaConfig", tokens, **TEXT, num_key_value_heads=2),
    "hf/qwen2": partial(transformer, "Qwen2ForCausalLM", "Qwen2Config", tokens, **TEXT, num_key_value_heads=2),
    "hf/t5": partial(
        transformer, "T5EncoderModel", "T5Config", tokens, "last_hidden_state", vocab_size=100, d_model=96, d_ff=192,
        d_kv=24, num_layers=2, num_heads=4,
    ),
    "hf/t5_classifier": partial(
        transformer, "T5ForTokenClassification", "T5Config", tokens, vocab_size=100, d_model=96, d_ff=192, d_kv=24,
        num_layers=2, num_heads=4,
    ),
    "hf/whisper_encoder": partial(
        transformer, "WhisperForAudioClassification", "WhisperConfig", partial(clip, 80, 64), d_model=96,
        encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=192, max_source_positions=32,
    ),
    "hf/wav2vec2": partial(
        transformer, "Wav2Vec2ForCTC", "Wav2Vec2Config", partial(clip, 2000), **WIDE, conv_dim=(64,) * 7, vocab_size=30
    ),
}  # fmt: skip
UNJUDGED = {"mvit_v2_s", *DETECTORS} - {"ssdlite320_mobilenet_v3_large"}  # large: they have not been run yet
NETWORKS = TORCHVISION | MORE_TORCHVISION | TIMM | TRANSFORMERS


def build(name):
    """The network and its example input, the same every time."""
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    return model.eval(), example
