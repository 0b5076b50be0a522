"""A compiled program's text, in the forms that compilers write it in."""

import pytest

from medscope_jax.planning import Assumed, read_work
from medscope_jax.planning.hlo_text import loop_name, parse


def test_elements_of_tuples_as_newer_compilers_name_them():
    text = """
%body (p: (s32[], (f32[4], f32[256]))) -> (s32[], (f32[4], f32[256])) {
  %p = (s32[]{:T(128)}, (f32[4]{0:S(1)}, f32[256]{0})) parameter(0)
  %turned = f32[256]{0} negate(%p#1#1)
  %inner = (f32[4]{0:S(1)}, f32[256]{0}) tuple(%p#1#0, %turned)
  ROOT %out = (s32[]{:T(128)}, (f32[4]{0:S(1)}, f32[256]{0})) tuple(%p#0, %inner)
}

%until (q: (s32[], (f32[4], f32[256]))) -> pred[] {
  %q = (s32[]{:T(128)}, (f32[4]{0:S(1)}, f32[256]{0})) parameter(0)
  %five = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%q#0, %five), direction=LT
}

ENTRY %main (x: f32[256], y: f32[4]) -> f32[256] {
  %x = f32[256]{0} parameter(0)
  %y = f32[4]{0:S(1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %both = (f32[4]{0:S(1)}, f32[256]{0}) tuple(%y, %x)
  %start = (s32[]{:T(128)}, (f32[4]{0:S(1)}, f32[256]{0})) tuple(%zero, %both)
  %loop = (s32[], (f32[4]{0:S(1)}, f32[256]{0})) while(%start), condition=%until, body=%body
  ROOT %copied = f32[256]{0} copy(%loop#1#1)
}
"""
    # Five times around and once outside: 1 KiB read and written each time.
    assert read_work(text, 1, Assumed()).hbm_bytes == (5 + 1) * 2 * 1024


@pytest.mark.parametrize(
    "metadata, name",
    [
        (
            ', metadata={op_name="jit(rollout)/agent_loop/while/body/decode_step/while"}',
            "decode_step",
        ),
        (', metadata={op_type="while" op_name="agent_loop/while" source_line=3}', "agent_loop"),
        (', metadata={op_name="jit(f)/while"}', "jit(f)"),
        (', metadata={op_name="while"}', ""),
        ("", ""),
    ],
)
def test_a_loop_s_name_is_the_scope_that_it_stands_in(metadata, name):
    text = f"""
%body (p: f32[4]) -> f32[4] {{
  ROOT %p = f32[4]{{0}} parameter(0)
}}

%until (q: f32[4]) -> pred[] {{
  %q = f32[4]{{0}} parameter(0)
  ROOT %yes = pred[] constant(true)
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %loop = f32[4]{{0}} while(%x), condition=%until, body=%body{metadata}
}}
"""
    computations, entry = parse(text)
    assert loop_name(computations[entry].instructions["loop"], computations) == name
