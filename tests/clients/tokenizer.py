"""A small Hugging Face tokenizer for load generators that want one and may not download any.

`python tokenizer.py FOLDER` writes it to FOLDER/tokenizer and prints that path.
"""

import sys
from pathlib import Path


def make(folder):
    """Writes a word-level tokenizer into `folder` and gives its path."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vowels, consonants = "aeiou", "bcdfgklmnprstv"
    words = [a + b + c for a in consonants for b in vowels for c in consonants]
    vocabulary = {word: at for at, word in enumerate(["[UNK]", "[EOS]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    path = Path(folder) / "tokenizer"
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]"
    )
    wrapped.save_pretrained(path)
    return path


if __name__ == "__main__":
    print(make(sys.argv[1]))
