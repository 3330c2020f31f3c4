"""What every family of language models keeps: see `sca.modeling.language_model.LanguageFamily`."""

from __future__ import annotations

import torch
from torch import Tensor

from sca.decoding.reference import decode
from sca.modeling.language_model import LanguageFamily, LanguageSize, embed_tokens

SIZE = LanguageSize(width=32, layers=2, heads=2, positions=64, vocabulary=50, dropout=0.1)
_PREFIX = 5


class LanguageFamilyTests:
    """Subclass it and say `family`."""

    def family(self) -> LanguageFamily:
        """The family."""
        raise NotImplementedError

    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        family = self.family()
        return family.build(family.configuration(family.small(SIZE))).eval()

    def prefix(self, count: int) -> Tensor:
        return torch.randn((count, _PREFIX, SIZE.width), generator=torch.Generator().manual_seed(1))

    def test_settings_say_the_size(self) -> None:
        family = self.family()
        configuration = family.configuration(family.small(SIZE))
        assert configuration.hidden_size == SIZE.width
        assert configuration.vocab_size == SIZE.vocabulary
        assert configuration.eos_token_id == 0

    def test_weights_are_float32(self) -> None:
        assert {parameter.dtype for parameter in self.model().parameters()} == {torch.float32}

    @torch.inference_mode()
    def test_the_cache_changes_nothing(self) -> None:
        model, prefix = self.model(), self.prefix(3)
        ids = torch.randint(0, SIZE.vocabulary, (3, 4), generator=torch.Generator().manual_seed(2))
        whole = torch.cat([prefix, embed_tokens(model, ids)], dim=1)  # type: ignore[arg-type]
        at_once = model(inputs_embeds=whole, use_cache=False).logits[:, -1]
        first = model(inputs_embeds=whole[:, :-1], use_cache=True)
        last = model(inputs_embeds=whole[:, -1:], past_key_values=first.past_key_values, use_cache=True)
        assert torch.allclose(at_once, last.logits[:, -1], atol=1e-4)

    @torch.inference_mode()
    def test_it_is_causal(self) -> None:
        model, prefix = self.model(), self.prefix(2)
        other = prefix.clone()
        other[:, -1] *= -1  # a shift would not be seen through a layer norm
        before, after = (model(inputs_embeds=p, use_cache=False).logits for p in (prefix, other))
        assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-5)
        assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-5)

    @torch.inference_mode()
    def test_captions_can_be_decoded(self) -> None:
        model, prefix = self.model(), self.prefix(3)
        for beams in (1, 3):
            sequences = decode(model, prefix, beams=beams, max_new_tokens=6).sequences()  # type: ignore[arg-type]
            assert len(sequences) == 3
            assert all(0 <= token < SIZE.vocabulary for ids in sequences for token in ids)

    def test_it_learns(self) -> None:
        model = self.model().train()
        ids = torch.tensor([[7, 3, 9, 0]] * 2)
        embeds = torch.cat([self.prefix(2), embed_tokens(model, ids[:, :-1])], dim=1).detach()  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(20):
            logits = model(inputs_embeds=embeds, use_cache=False).logits[:, _PREFIX - 1 :]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
