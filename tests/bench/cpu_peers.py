#!/usr/bin/env python3
"""bench/peers/pytorch_peers.py without PyTorch, whose functions do nothing here: the table that it prints by itself."""
import contextlib
import io
import pathlib
import sys
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "peers"))
with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ("torch", "torch.nn", "torch.nn.functional")}):
    import pytorch_peers  # noqa: E402

# In place of what would compute.
COMPUTES = {"check_definition": lambda: None, "information": dict, "make_inputs": lambda *_: [mock.MagicMock()] * 5,
            "variants": lambda *_: {"all heads at once": (mock.MagicMock(), 0)}, "train": lambda *_: [mock.MagicMock()] * 3,
            "check_output": lambda *_: 2e-7, "check_gradients": lambda *_: 1e-6, "check_gradient_rows": lambda *_: 4e-7,
            "witness": lambda _: {}}


class CpuPeers(unittest.TestCase):
    def table(self, *arguments, **replaced):
        """Lines that it prints, but for the first, which is about PyTorch."""
        printed = io.StringIO()
        with mock.patch.multiple(pytorch_peers, **{**COMPUTES, **replaced}), \
                mock.patch.object(sys, "argv", ["pytorch_peers.py", "--repetitions", "2", *arguments]), \
                contextlib.redirect_stdout(printed):
            pytorch_peers.main()
        return printed.getvalue().splitlines()[1:]

    def test_every_form_has_a_row_for_each_pass_it_has(self):
        rows = self.table("--shapes", "A,E")
        passes = {form: 2 if form in pytorch_peers.TRAINABLE else 1 for form in pytorch_peers.FORMS}
        self.assertEqual(len(rows), 2 * sum(passes.values()))
        for row in rows:
            self.assertRegex(row, r"^[AE] \w+ +forward(_backward)? +\d+\.\d\d ms  all heads at once")

    def test_an_error_is_shown_where_the_form_was_compared_at_its_shape(self):
        forward, gradients, softmax = self.table("--shapes", "A", "--forms", "chunked") + self.table(
            "--shapes", "A", "--forms", "softmax", "--passes", "forward_backward")
        self.assertRegex(forward, "^A chunked +forward .* error 2e-07$")
        self.assertRegex(gradients, "^A chunked +forward_backward .* error 4e-07$")
        self.assertRegex(softmax, "^A softmax +forward_backward .* all heads at once$")

    def test_what_is_not_timed_is_a_row_with_its_reason(self):
        self.assertRegex(self.table("--shapes", "D", "--forms", "quadratic", "--passes", "forward", variants=lambda *_: {})[0],
                         "^D quadratic +forward +no variant for length 16384$")


if __name__ == "__main__":
    unittest.main()
