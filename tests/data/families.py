"""Chat templates in the forms of well-known model families, written for tests, with small tokenizers of their kinds.

What stands in a conversation, where, and which tokens are special is theirs; everything else is left out.
"""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.data.tokenizers import bpe_trainer, trained

_LOOP = "{% for m in messages %}"
_SYSTEM_OF_FIRST = "{% if messages[0].role == 'system' %}"
_THOUGHT = (
    "{% set thought = '' %}{% set text = m.content %}{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
_REASONED = "{{ '<think>\\n' + thought + '\\n</think>\\n\\n' + text.lstrip('\\n') }}"
_NO_SYSTEM = _SYSTEM_OF_FIRST + "{{ raise_exception('System role not supported') }}{% endif %}"
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)


def _chatml(default_system: str = "", answer: str = "{{ m.content }}", opened: str = "") -> str:
    system = ""
    if default_system:
        system = "{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\\n%s<|im_end|>\\n' }}{% endif %}"
    return (
        _LOOP
        + system.replace("%s", default_system)
        + "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
        + "{{ '<|im_start|>assistant\\n"
        + opened
        + "' }}{% endif %}"
    )


def _gemma(turn: str, end: str, system: str) -> str:
    return (
        "{{ bos_token }}"
        + system
        + _LOOP
        + _ALTERNATE
        + f"{{{{ '{turn}' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}}}"
        + "{% if loop.first %}{{ ns.system }}{% endif %}"
        + f"{{{{ m.content | trim + '{end}\\n' }}}}{{% endfor %}}"
        + f"{{% if add_generation_prompt %}}{{{{ '{turn}model\\n' }}}}{{% endif %}}"
    )


_NS = "{% set ns = namespace(system='') %}"
_FOLDED = (
    _NS
    + _SYSTEM_OF_FIRST
    + "{% set ns.system = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}{% endif %}"
)
_HEADERS = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}"
_PLAIN_ROLES = "{{ '<|' + m.role + '|>\\n' + m.content + %s }}"


@dataclass(frozen=True)
class Family:
    """How models of one family write a conversation.

    Attributes:
        template: In the family's form.
        specials: Special tokens, the end-of-sequence first, the beginning-of-sequence (or "") second.
        kind: Of tokenizer.
        words: Tokens that are added to the vocabulary without being special.
        strips: Whether special tokens swallow the white space behind them.
        end: The token by which an answer ends.
        declared: Further ends that the makers' generation config names.
    """

    template: str
    specials: tuple[str, ...]
    kind: str
    words: tuple[str, ...] = ()
    strips: bool = False
    end: str = ""
    declared: tuple[str, ...] = ()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A small tokenizer with the family's special tokens."""
        return _KINDS[self.kind](self)


def _byte_level(family: Family) -> PreTrainedTokenizerFast:
    from tokenizers import trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _special(trained(core, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet)), family)


def _prepending(family: Family) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _special(trained(core, bpe_trainer()), family)


def _metaspace(scheme: str):
    def build(family: Family) -> PreTrainedTokenizerFast:
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        core.decoder = decoders.Metaspace(prepend_scheme=scheme)
        return _special(trained(core, bpe_trainer()), family)

    return build


def _special(tokenizer: PreTrainedTokenizerFast, family: Family) -> PreTrainedTokenizerFast:
    marks = [AddedToken(text, special=True, normalized=False, rstrip=family.strips) for text in family.specials if text]
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.words])
    tokenizer.eos_token = family.specials[0]
    if family.specials[1]:
        tokenizer.bos_token = family.specials[1]
    tokenizer.chat_template = family.template
    return tokenizer


_KINDS = {
    "byte level": _byte_level,
    "prepending": _prepending,
    "metaspace first": _metaspace("first"),
    "metaspace never": _metaspace("never"),
}
_IM = ("<|im_end|>", "", "<|im_start|>", "<|endoftext|>")
_THINK = ("<think>", "</think>")
_R = "<｜User｜>", "<｜Assistant｜>"

FAMILIES: dict[str, Family] = {
    "Llama 2": Family(
        "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}" + _LOOP + "{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + (s if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        ("</s>", "<s>"),
        "prepending",
        end="</s>",
    ),
    "Llama 3": Family(
        "{{ bos_token }}"
        + _LOOP
        + _HEADERS
        + "{% endfor %}{% if add_generation_prompt %}"
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        (
            "<|eot_id|>",
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|end_of_text|>",
        ),
        "byte level",
        end="<|eot_id|>",
        declared=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "Qwen 2.5": Family(
        _chatml("You are a helpful assistant."), _IM, "byte level", end="<|im_end|>", declared=("<|endoftext|>",)
    ),
    "Qwen 3": Family(
        _chatml(answer=_THOUGHT + "{% if loop.last %}" + _REASONED + "{% else %}{{ text }}{% endif %}"),
        _IM,
        "byte level",
        words=_THINK,
        end="<|im_end|>",
    ),
    "Qwen 3.5": Family(
        _chatml(
            answer=_THOUGHT + "{% if loop.last %}" + _REASONED + "{% else %}{{ text }}{% endif %}", opened="<think>\\n"
        ),
        _IM,
        "byte level",
        words=_THINK,
        end="<|im_end|>",
    ),
    "Gemma 2": Family(
        _gemma("<start_of_turn>", "<end_of_turn>", _NS + _NO_SYSTEM),
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "metaspace never",
        end="<end_of_turn>",
    ),
    "Gemma 3": Family(
        _gemma("<start_of_turn>", "<end_of_turn>", _FOLDED),
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "metaspace never",
        end="<end_of_turn>",
        declared=("<eos>", "<end_of_turn>"),
    ),
    "Gemma 4": Family(
        _gemma("<|turn>", "<turn|>", _NS).replace(_ALTERNATE, ""),
        ("<eos>", "<bos>", "<|turn>", "<turn|>"),
        "metaspace never",
        end="<turn|>",
    ),
    "Phi 3": Family(
        _LOOP
        + _PLAIN_ROLES % "'<|end|>\\n'"
        + "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|endoftext|>", "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "prepending",
        strips=True,
        end="<|end|>",
        declared=("<|endoftext|>", "<|end|>"),
    ),
    "Phi 4": Family(
        _LOOP
        + "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        ("<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|im_sep|>"),
        "byte level",
        end="<|im_end|>",
    ),
    "Mistral": Family(
        "{{ bos_token }}" + _NO_SYSTEM + _LOOP + _ALTERNATE + "{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ("</s>", "<s>", "[INST]", "[/INST]"),
        "metaspace first",
        end="</s>",
    ),
    "Zephyr": Family(
        _LOOP
        + _PLAIN_ROLES % "eos_token + '\\n'"
        + "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
        ("</s>", "<s>"),
        "prepending",
        end="</s>",
    ),
    "SmolLM 2": Family(
        _chatml("You are a helpful AI assistant."), ("<|im_end|>", "<|im_start|>"), "byte level", end="<|im_end|>"
    ),
    "SmolLM 3": Family(
        _chatml(
            "Today: {{ strftime_now('%d %B %Y') }}".replace("{{", "' + ").replace("}}", " + '"),
            answer="{{ '<think>\\n\\n</think>\\n' + m.content.lstrip('\\n') }}",
        ),
        ("<|im_end|>", "<|im_start|>"),
        "byte level",
        words=_THINK,
        end="<|im_end|>",
    ),
    "DeepSeek R1": Family(
        _NS
        + _LOOP
        + "{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}{{ bos_token + ns.system }}"
        + _LOOP
        + "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}"
        + "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", *_R),
        "byte level",
        words=_THINK,
        end="<｜end▁of▁sentence｜>",
    ),
    "OLMo 2": Family(
        "{{ bos_token }}"
        + _LOOP
        + "{{ '<|' + m.role + '|>\\n' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        + "{% if not loop.last or m.role != 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
        ("<|endoftext|>", "<|endoftext|>"),
        "byte level",
        end="<|endoftext|>",
    ),
    "Granite": Family(
        _LOOP
        + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        ("<|end_of_text|>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        "byte level",
        end="<|end_of_text|>",
    ),
    "Command R": Family(
        "{{ bos_token }}"
        + _LOOP
        + "{{ '<|START_OF_TURN_TOKEN|>' + {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', "
        + "'system': '<|SYSTEM_TOKEN|>'}[m.role] + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        (
            *("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
            "<|SYSTEM_TOKEN|>",
        ),
        "byte level",
        end="<|END_OF_TURN_TOKEN|>",
    ),
}
