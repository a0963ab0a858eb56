"""Sentences for the speed comparisons: the same ones in every run and on every machine.

`embed_torch.py` imports it; run as a program it prints the sentences, one a line, for `embed --file`.
"""

import sys

WORDS = (
    "the lease of a house ends when summer comes and every neighbour brings bread to share with children who "
    "play near water while old trees hold their leaves against wind that carries rain from distant mountains "
    "engineers measure how fast a machine can multiply numbers before heat slows its clock and write down what "
    "they find so that others may trust the result without asking twice about method or luck"
).split()


def sentences(count: int = 256, words: int = 98) -> list[str]:
    """`count` sentences of `words` common words; with [CLS] and [SEP] about two tokens more than words.

    The words are drawn by a 64-bit linear congruential generator (Knuth's MMIX constants), and lengths vary
    by up to 8 either way.
    """
    state = 1

    def draw(bound: int) -> int:
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % bound

    return [
        " ".join(WORDS[draw(len(WORDS))] for _ in range(words - 8 + draw(17))) for _ in range(count)
    ]


if __name__ == "__main__":
    print("\n".join(sentences(*map(int, sys.argv[1:]))))
