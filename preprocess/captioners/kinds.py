"""Loads each kind of captioner."""

from collections.abc import Callable, Mapping

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from preprocess.captioners.captioner import Captioner
from preprocess.captioners.chat_captioner import ChatCaptioner, ask, pad_left
from preprocess.captioners.choice import CaptionerChoice, Kind
from preprocess.captioners.cogvlm_captioner import CogvlmCaptioner, tokenizer_of
from preprocess.captioners.loading import load_model, load_processor, load_tokenizer
from preprocess.captioners.registry import identity
from preprocess.captioners.task_captioner import BlipCaptioner, FlorenceCaptioner


def load_florence(choice: CaptionerChoice, device: torch.device) -> Captioner:
    """Load Florence-2, which takes a task as prompt. Raises CaptionerError, as all functions here."""
    processor = load_processor(choice.source, choice.trust_remote_code)
    model = load_model(AutoModelForImageTextToText, choice.source, device, choice.trust_remote_code)
    return FlorenceCaptioner(identity(choice.source), choice.prompt, model, processor)


def load_blip(choice: CaptionerChoice, device: torch.device) -> Captioner:
    """Load BLIP or BLIP-2."""
    processor = load_processor(choice.source, choice.trust_remote_code)
    model = load_model(AutoModelForImageTextToText, choice.source, device, choice.trust_remote_code)
    return BlipCaptioner(identity(choice.source), choice.prompt, model, processor)


def load_chat(choice: CaptionerChoice, device: torch.device) -> Captioner:
    """Load a model with a chat template. The template is checked before the weights are downloaded."""
    processor = load_processor(choice.source, choice.trust_remote_code)
    conversation = ask(choice.model_id, processor, choice.prompt)
    pad_left(processor.tokenizer)
    model = load_model(AutoModelForImageTextToText, choice.source, device, choice.trust_remote_code)
    return ChatCaptioner(identity(choice.source), choice.prompt, model, processor, conversation)


def load_cogvlm(choice: CaptionerChoice, device: torch.device) -> Captioner:
    """Load the original CogVLM with its own code."""
    tokenizer = load_tokenizer(tokenizer_of(choice.source), choice.trust_remote_code)
    pad_left(tokenizer)  # the model's code needs a padding token, in the places of the image
    model = load_model(AutoModelForCausalLM, choice.source, device, choice.trust_remote_code)
    return CogvlmCaptioner(identity(choice.source), choice.prompt, model, tokenizer)


LOADERS: Mapping[Kind, Callable[[CaptionerChoice, torch.device], Captioner]] = {
    Kind.FLORENCE: load_florence,
    Kind.BLIP: load_blip,
    Kind.CHAT: load_chat,
    Kind.COGVLM: load_cogvlm,
}


def load_captioner(choice: CaptionerChoice, device: torch.device) -> Captioner:
    """Load the chosen model on `device`. Its identity is that of the loaded weights, which may be newer than those at
    the time of the choice. Raises CaptionerError with what is missing and the remedy."""
    return LOADERS[choice.kind](choice, device)
