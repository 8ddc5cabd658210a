"""The subcommands of `warpline`: one module each, with HELP, arguments(parser) and run(args, settings) -> exit code."""
