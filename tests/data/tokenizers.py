"""Small tokenizers of the common families, for tests of everything that goes from text to ids."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["Human: How are you?\n\nAssistant: I am fine, thank you. Good morning!", "System: The quick fox is good.\n"]
TEXTS = ["I am fine", "fine", "", " fine", "   fine", "\nfine\n", "a  b ", "1. One\n\n2. Two", "Human: is it <good>?"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(core: Tokenizer, trainer, **special) -> PreTrainedTokenizerFast:
    core.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 does it: bytes, a blank belongs to the word behind it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    extra = {"additional_special_tokens": specials[1:]}
    return trained(core, trainer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", **extra)


SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
ALPHABET = sorted(set("".join((*CORPUS, *TEXTS)) + "/|_▁"))


def bpe_trainer():
    specials = list(SENTENCEPIECE.values())
    return trainers.BpeTrainer(vocab_size=150, special_tokens=specials, initial_alphabet=ALPHABET)


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """As converted SentencePiece models do it: a blank is a mark before the word, and stands before the first too."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return trained(core, bpe_trainer(), **SENTENCEPIECE)


def unigram() -> PreTrainedTokenizerFast:
    """As T5 does it: special tokens are words of the vocabulary too."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    options = {"special_tokens": list(SENTENCEPIECE.values()), "initial_alphabet": ALPHABET}
    return trained(core, trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", **options), **SENTENCEPIECE)


def prepending() -> PreTrainedTokenizerFast:
    """As Llama 2 does it: a normaliser writes the marks, the decoder takes one away in front."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return trained(core, bpe_trainer(), **SENTENCEPIECE)


FAMILIES = {
    "byte level": byte_level,
    "metaspace": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "unigram": unigram,
    "prepending": prepending,
}
