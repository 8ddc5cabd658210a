from pathlib import Path

import pytest

from warpline import settings
from warpline.errors import SettingsError


def load(path: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> settings.Settings:
    return settings.load(path, environ or {}, **flags)


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "warpline.toml"
    file.write_text('node = "from-file"\nlog_level = "debug"\n[collector]\nbatch_rows = 7\nqueue_mb = 9\n')
    found = load(file, {"WARPLINE_COLLECTOR_BATCH_ROWS": "8", "WARPLINE_NODE": "from-variable"}, node="from-flag")
    assert (found.node, found.log_level, found.collector_batch_rows, found.collector_queue_mb) == (
        "from-flag",
        "debug",
        8,
        9,
    )
    assert found.collector_batch_delay_s == settings.Settings().collector_batch_delay_s


def test_an_unknown_setting_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(SettingsError, match=r"WARPLINE_COLECTOR_BATCH_ROWS.*did you mean 'collector_batch_rows'"):
        load(environ={"WARPLINE_COLECTOR_BATCH_ROWS": "8"})


def test_a_value_of_the_wrong_type_is_refused_with_the_value() -> None:
    with pytest.raises(SettingsError, match=r"collector_batch_rows is 'many'; give a whole number"):
        load(environ={"WARPLINE_COLLECTOR_BATCH_ROWS": "many"})
    with pytest.raises(SettingsError, match="correlator_keep_content is 'maybe'; give true or false"):
        load(environ={"WARPLINE_CORRELATOR_KEEP_CONTENT": "maybe"})


@pytest.mark.parametrize(("word", "meaning"), [("true", True), ("1", True), ("off", False), ("No", False)])
def test_words_for_true_and_false(word: str, meaning: bool) -> None:
    assert load(environ={"WARPLINE_CORRELATOR_KEEP_CONTENT": word}).correlator_keep_content is meaning


def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "warpline.toml"
    file.write_text("= nonsense")
    with pytest.raises(SettingsError, match=r"warpline\.toml"):
        load(file)


def test_what_settings_prints_is_a_file_that_holds_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "warpline.toml"
    file.write_text(settings.describe())
    assert load(file) == settings.Settings()
