"""Values that no run can be made of: one line that names the key, before a folder is claimed."""

import re
import types
from pathlib import Path

import pytest

from medscope_jax import train
from medscope_jax.config import load_config
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import axis_sizes
from medscope_jax.errors import UserError
from medscope_jax.training.config_checks import check_config
from medscope_jax.training.run import suite_tokenizer

FOLDER = Path(__file__).resolve().parent.parent.parent / "tpu_configs"
NOWHERE = Path("nowhere")  # no phantom suite need be drawn to be checked
SMOKE = f"{FOLDER / 'cpu.py'}:smoke"
# A suite that is listed in no time.
TINY = [
    *("suite.train_ophthalmic=1", "suite.train_endoscopic=1", "suite.validation_ophthalmic=1"),
    *("suite.validation_endoscopic=0", "suite.test_ophthalmic=1", "suite.test_endoscopic=0"),
    "suite.test_laparoscopic=1",
]


def stub_mesh(config):
    """The shape of the config's mesh, on devices that need not be there."""
    return types.SimpleNamespace(shape=axis_sizes(config.mesh, config.device.count))


def check_all(config):
    """check_config, the suite included."""
    check_config(config, stub_mesh(config), open_suite(config, NOWHERE))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        # model
        ("model.text.num_attention_heads=0", "num_attention_heads is 0; it must be at least 1"),
        ("model.text.num_attention_heads=3", "must be a multiple of num_attention_heads"),
        ("model.text.num_key_value_heads=3", "must be a multiple of num_key_value_heads"),
        ("model.text.hidden_size=-128", "config.model.text.hidden_size is -128"),
        ("model.text.mrope_section=(8, 4, 5)", "config.model: text.mrope_section must be three"),
        ("model.text.mrope_section=(20, -2, -2)", "it needs whole numbers"),
        ("model.text.rope_theta=0", "rope_theta is 0.0; it must be above 0"),
        ("model.text.initializer_range=nan", "initializer_range is nan; it must be a finite"),
        ("model.vision.depth=0", "config.model.vision.depth is 0"),
        ("model.vision.num_heads=3", "vision.hidden_size must be a multiple of 4 * num_heads"),
        ("model.vision.window_size=27", "must hold at least one merged token"),
        ("model.vision.patch_size=0", "config.model.vision.patch_size is 0"),
        ("model.vision.fullatt_block_indexes=(7,)", "the tower's blocks are numbered 0 to 1"),
        ("model.dtype=float8", "config.model.dtype is 'float8'; use one of float32, bfloat16"),
        # video and dialogue
        ("video.height=30", "config.video: frames of 30x56 pixels do not split into 28-pixel"),
        ("video.fps=2.0", "config.video.fps is 2.0, but phantom events lie on whole seconds"),
        ("video.max_frames=0", "config.video.max_frames is 0"),
        ("video.min_frames=0", "config.video.min_frames is 0; it must be at least 1"),
        ("video.min_frames=241", "min_frames is 241; it must be at most config.video.max_frames"),
        ("video.max_frames=120", "is 120, but the suite has a recording of"),
        ("dialogue.vocab_size=300", "config.dialogue.vocab_size is 300; the protocol, 241 ticks"),
        ("dialogue.preview_frames=7", "preview_frames is 7; it must be at least 8"),
        ("dialogue.window_frames=1", "window_frames is 1; it must be at least 2"),
        ("dialogue.length=150", "config.dialogue.length: an episode of"),
        ("dialogue.clip_length=64", "config.dialogue.clip_length: an episode of"),
        ("dialogue.max_tool_turns=0", "max_tool_turns is 0"),
        ("dialogue.frame_format={frame}", "it needs {frame} once and {time} on one side"),
        ("dialogue.frame_format={time:.1f}{frame}{time:.1f}", "{time} on one side"),
        ("dialogue.frame_format={frame}{frame}{time}", "it needs {frame} once"),
        ("dialogue.frame_format={frame}{time:.1x}", "which can't be filled in"),
        ("dialogue.frame_format={frame}{time}{when}", "which can't be filled in"),
        ("dialogue.frame_format={frame}{time[0]}", "which can't be filled in"),
        ("dialogue.frame_format={{frame}{time}", "plain text without braces"),
        ("dialogue.frame_format=<|image_pad|>{frame}{time}", "<|image_pad|>"),
        ("dialogue.response_format={response}", "it needs '<tool_response>{response}"),
        ("dialogue.response_format=<tool_response></tool_response>", "it needs '<tool_resp"),
        ("video.resample=cubic", "config.video.resample is 'cubic'; use 'area' or 'bicubic'"),
        ("video.stored_bank=int4", "config.video.stored_bank: banks can't be stored as 'int4'"),
        # stages
        ("warm_up.steps=0", "config.warm_up.steps is 0, and so is epochs: set one of them"),
        ("warm_up.steps=-1", "config.warm_up.steps is -1; it must be at least 0"),
        (
            "warm_up.epochs=3",
            "has 12 steps and 3 epochs: set one of them to 0, as by --config.warm",
        ),
        ("passive.epochs=-1", "config.passive.epochs is -1.0; it must be at least 0"),
        ("cold_start.micro_batch=3", "batch_size is 8; it must be a multiple of config.cold_start"),
        ("cold_start.micro_batch=-1", "config.cold_start.micro_batch is -1; it must be at least 0"),
        ("stages=rl", "config.stages is 'rl'; use some of warm_up,passive,cold_start,ga_grpo"),
        ("stages=warm_up,warm_up", "each once, with commas between them"),
        ("stages=ga_grpo", "so ga_grpo has no model to start from: name one by --config.model"),
        ("stages=passive,ga_grpo", "so passive has no model to start from"),
        ("start_from=runs/a", "config.start_from is 'runs/a'; use WORKDIR:STAGE, a folder of"),
        ("start_from=runs/a:sft", "one of its stages: warm_up, passive, cold_start, ga_grpo"),
        ("start_from=nowhere:cold_start", "that run has not finished cold_start"),
        ("passive.learning_rate=-0.1", "config.passive.learning_rate is -0.1"),
        ("cold_start.learning_rate=inf", "config.cold_start.learning_rate is inf"),
        ("ga_grpo.warmup=1.5", "config.ga_grpo.warmup is 1.5; it must be at most 1"),
        ("ga_grpo.clip_norm=0", "config.ga_grpo.clip_norm is 0.0; it must be above 0"),
        ("warm_up.batch_size=0", "config.warm_up.batch_size is 0"),
        # reinforcement learning
        ("rl.group_size=1", "config.rl.group_size is 1; it must be at least 2"),
        ("rl.parts=0", "config.rl.parts is 0"),
        ("rl.parts=3", "config.rl.parts is 3; 8 groups (ga_grpo.batch_size) do not split"),
        ("rl.resample=-1", "config.rl.resample is -1; it must be at least 0"),
        ("rl.micro_batch=0", "config.rl.micro_batch is 0"),
        ("ga_grpo.batch_size=9", "micro_batch is 32; 9 groups (ga_grpo.batch_size) of 4 rollouts"),
        ("rl.kl_coefficient=-1", "config.rl.kl_coefficient is -1.0"),
        ("rollout.temperature=0", "config.rollout.temperature is 0.0; it must be above 0"),
        ("rollout.top_p=1.1", "config.rollout.top_p is 1.1; it must be at most 1"),
        ("rollout.prefill_rows=0", "config.rollout.prefill_rows is 0"),
        ("rollout.slots=-1", "config.rollout.slots is -1; it must be at least 0"),
        ("rollout.kv_dtype=int4", "config.rollout.kv_dtype is 'int4'; use '' or 'int8'"),
        ("reward.crop_reward=soft", 'config.reward: crop_reward is "soft"; choose'),
        ("reward.scored_calls=first", 'config.reward: scored_calls is "first"; choose'),
        ("reward.delta=0", "config.reward.delta is 0.0; it must be above 0"),
        ("reward.evidence_weight=nan", "config.reward.evidence_weight is nan"),
        ("advantage.mode=fork", 'config.advantage: mode is "fork"; choose'),
        ("advantage.good_scale=-1", "config.advantage.good_scale is -1.0"),
        ("loss.aggregation=mean", 'config.loss: aggregation is "mean"; choose'),
        ("loss.dual_clip=0.5", "config.loss: dual_clip is 0.5; it must be above 1"),
        ("loss.clip_low=2", "config.loss.clip_low is 2.0; it must be at most 1"),
        ("judge.url=ftp://x", "config.judge: judge url"),
        ("judge.url=http://localhost:1/v1", "config.judge: url needs model"),
        ("judge.concurrency=0", "config.judge.concurrency is 0"),
        ("judge.timeout=inf", "config.judge.timeout is inf; it must be a finite number"),
        ("judge.temperature=-1", "config.judge.temperature is -1.0; it must be at least 0"),
        ("judge.max_failed=1.1", "config.judge.max_failed is 1.1; it must be at most 1"),
        ("judge.unscored=no", "config.judge.unscored is 'no'; use 'left_out' or 'zero'"),
        # the rest
        ("suite.train_ophthalmic=-1", "config.suite: suite.train_ophthalmic must be a number"),
        ("suite.validation_ophthalmic=0", "config.suite has no validation procedures"),
        ("evaluation.samples=0", "config.evaluation.samples is 0"),
        ("evaluation.rollouts=0", "config.evaluation.rollouts is 0"),
        ("log.checkpoint_every=0", "config.log.checkpoint_every is 0"),
        ("log.checkpoint_minutes=-1", "config.log.checkpoint_minutes is -1.0; it must be at"),
        ("log.profile=3", "config.log.profile is '3'; use FIRST:LAST, steps of a stage, such as"),
        ("log.profile=3:2", "config.log.profile is '3:2'; use FIRST:LAST"),
        ("log.profile=0:2", "config.log.profile is '0:2'; use FIRST:LAST"),
        ("seed=-1", "config.seed is -1; it must be at least 0"),
        ("seed=4294967296", "config.seed is 4294967296; it must be at most 4294967295"),
    ],
)
def test_a_bad_value_is_one_line(override, match):
    config = load_config(SMOKE, [*TINY, override])
    with pytest.raises(UserError, match=re.escape(match)) as error:
        check_all(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("warm_up.batch_size", 6), ("cold_start.batch_size", 4), ("ga_grpo.batch_size", 12)),
        *(("evaluation.rollouts", 60), ("evaluation.samples", 5)),
    ],
)
def test_batches_split_over_the_mesh(key, value):
    """Eight devices, of which data and fsdp share the rows."""
    fitting = ["warm_up.batch_size=16", "ga_grpo.batch_size=8", "evaluation.rollouts=64"]
    mesh = ["device.count=16", "mesh.data=2", "mesh.fsdp=4", "mesh.tensor=2"]
    config = load_config(SMOKE, [*TINY, *fitting, *mesh])
    check_all(config)
    config = load_config(SMOKE, [*TINY, *fitting, *mesh, f"{key}={value}"])
    with pytest.raises(UserError, match=rf"{key} .*does not split over data x fsdp = 8 devices"):
        check_all(config)


def test_a_value_that_is_missing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        (FOLDER / "cpu.py").read_text().replace('"turn_tokens": 48', '"turn_tokens": None')
    )
    with pytest.raises(UserError, match="rollout.turn_tokens is None; expected something like 48"):
        load_config(str(path), TINY)


def test_the_smallest_vocabulary_is_the_one_that_is_named():
    config = load_config(SMOKE, [*TINY, "dialogue.vocab_size=300"])
    with pytest.raises(UserError, match=r"at least (\d+)$") as error:
        suite_tokenizer(config, open_suite(config, NOWHERE))
    needed = int(re.search(r"\d+$", str(error.value))[0])
    for size in (needed - 1, needed):
        config = load_config(SMOKE, [*TINY, f"dialogue.vocab_size={size}"])
        if size < needed:
            with pytest.raises(UserError, match=f"at least {needed}$"):
                suite_tokenizer(config, open_suite(config, NOWHERE))
        else:
            assert suite_tokenizer(config, open_suite(config, NOWHERE)).vocab_size == needed


@pytest.mark.parametrize("name", ["cpu", "gpu", "v4", "v5e", "v5p", "v6e"])
def test_the_projects_own_configs_pass(name):
    config = load_config(str(FOLDER / f"{name}.py"), TINY)
    check_all(config)


@pytest.mark.parametrize(
    "override",
    [
        "rl.micro_batch=33",  # more than there are
        "rl.micro_batch=5",  # less than a group, which is not split
        "dialogue.frame_format={time:.1f}{frame}",
        "suite.train_endoscopic=0",
        "seed=4294967295",
        "rl.updates=3",
        "rl.parts=4",
        "rl.resample=2",
    ],
)
def test_odd_values_that_work_pass(override):
    config = load_config(SMOKE, [*TINY, override])
    check_all(config)


def test_nothing_is_claimed(refusal, tmp_path):
    """Found by the entry point before it makes the folder, or anything in it."""
    workdir = tmp_path / "run"
    for override in ("dialogue.length=150", "model.text.num_attention_heads=3"):
        arguments = [f"--config={SMOKE}", f"--config.{override}", "--workdir", workdir]
        assert override.rpartition(".")[2].partition("=")[0] in refusal(train.main, arguments)
        assert not workdir.exists()
