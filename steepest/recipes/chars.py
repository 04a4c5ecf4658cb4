"""Write like a text: a small transformer that predicts the next character."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest import optim, schedules
from steepest.data import Batches
from steepest.data.text import Text, load_text
from steepest.errors import RecipeError
from steepest.train import Run


def run(
    data: Path | None = None,
    context: int = 48,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    lr: float = 3e-3,
    epochs: int = 6,
    batch_size: int = 32,
    prompt: str = "",
    temperature: float = 0.8,
    sample: int = 300,
    seed: int = 0,
    device: str | None = None,
) -> Run:
    """Learn to write like a text, character by character, with a small decoder transformer.

    Args:
        data: a text file in UTF-8; left out, 38 of Shakespeare's sonnets
        context: characters that the model looks back on
        width: numbers that stand for a character inside of the model
        layers: blocks of attention and MLP
        heads: parts of the width that attend on their own
        lr: highest learning rate; it rises in half an epoch and falls along a cosine
        epochs: how often to go through the text, in windows that begin eight to a context
        batch_size: windows per update
        prompt: what is written at the end begins with it; left out, with the text's first letter
        temperature: chance in writing: near 0 always the likeliest character, 1 as predicted
        sample: characters to write at the end
        seed: seed of the model, of the order and of what is written
        device: cpu, cuda, ...; chosen if left out
    """
    if not width >= heads > 0 or width % heads or not temperature > 0:
        given = f"got width={width}, heads={heads}, temperature={temperature}"
        raise RecipeError(f"width is a multiple of heads, and temperature is above 0: {given}")
    text = load_text(data)
    x, y, held_out_x, held_out_y = text.windows(context)
    batches = Batches(x, y, batch_size=batch_size, seed=seed)
    torch.manual_seed(seed)
    model = Chars(len(text.letters), context, width, layers, heads)
    first = text.encode(prompt) if prompt else text.ids[:1]
    return Run(
        model=model,
        optimizer=optim.AdamW(optim.groups(model, no_decay=True), lr=lr, clip_norm=1.0),
        loss_fn=nn.CrossEntropyLoss(),
        batches=batches,
        validation=Batches(held_out_x, held_out_y, batch_size=256, shuffle=False),
        epochs=epochs,
        schedule=schedules.cosine(total=epochs * len(batches), warmup=len(batches) // 2),
        device=device,
        threads=1,  # more for a larger model
        seed=seed,
        name="chars",
        result=lambda model: write(model, text, first, sample, temperature, seed),
    )


class Chars(nn.Module):
    """Predict each next letter: ids (n, t) -> scores (n, letters, t)."""

    def __init__(self, letters: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.letter = nn.Parameter(0.02 * torch.randn(letters, width))
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.look, self.tell, self.think = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.look.append(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width)))
            self.tell.append(nn.Linear(width, width))
            mlp = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            self.think.append(nn.Sequential(nn.LayerNorm(width), *mlp))
        self.guess = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, letters))

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.letter) + self.place[: ids.shape[1]]
        x = F.dropout(x, 0.1, self.training)
        for look, tell, think in zip(self.look, self.tell, self.think, strict=True):
            q, k, v = look(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (n, heads, t, -1)
            x = x + tell(seen.transpose(1, 2).flatten(2))
            x = x + think(x)
        return self.guess(x).transpose(1, 2)


@torch.no_grad()
def write(model: Chars, text: Text, ids: Tensor, length: int, heat: float, seed: int) -> str:
    """Write on from some letters, drawing each; leave random states and mode as they were."""
    training, chance = model.training, torch.Generator().manual_seed(seed)
    model.eval()
    for _ in range(length):
        window = ids[None, -len(model.place) :].to(model.place.device)
        odds = (model(window)[0, :, -1].float().cpu() / heat).softmax(0)
        ids = torch.cat([ids, odds.multinomial(1, generator=chance)])
    model.train(training)
    return "\n    ".join(["wrote:", *text.decode(ids).splitlines()])
