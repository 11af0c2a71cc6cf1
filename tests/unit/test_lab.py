"""The lab's own machinery: its mode, and the memory lines of a server's log."""

from quantlab.lesson import lab

LOG = """
load_tensors:   CPU_Mapped model buffer size =    21.02 MiB
load_tensors:        CUDA0 model buffer size =   100.00 MiB
llama_kv_cache:        CPU KV buffer size =     1.00 MiB
sched_reserve:        CPU compute buffer size =    14.51 MiB
"""


def test_memory_lines_are_summed_by_part(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(LOG)
    assert lab.memory_lines(log) == {"weights": 121.02, "KV cache": 1.0, "compute buffers": 14.51}


def test_without_a_gpu_it_rehearses_with_the_bundled_model(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    here = lab.setting()
    assert (here.mode, here.model, here.device) == (lab.Mode.REHEARSAL, "tiny", "cpu")


def test_a_gpu_gets_the_largest_model_that_fits_it(monkeypatch):
    class Card:
        total_memory = 22 * 2**30

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Card)
    here = lab.setting()
    assert (here.mode, here.planned, here.model) == (lab.Mode.LIVE, "qwen3-8b", "Qwen/Qwen3-8B")
