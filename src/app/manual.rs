//! What is made of the command line's own definition: completion for shells, and manual pages.
//!
//! Writes: standard output, or a folder.

use super::Arguments;
use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// `vm-service completion`.
#[derive(Args)]
#[command(after_help = "Examples:
  vm-service completion bash > /etc/bash_completion.d/vm-service
  vm-service completion zsh > \"${fpath[1]}/_vm-service\"
  vm-service completion fish > ~/.config/fish/completions/vm-service.fish")]
pub(super) struct CompletionArguments {
    /// The shell.
    shell: Shell,
}

/// `vm-service man`.
#[derive(Args)]
#[command(after_help = "Examples:
  vm-service man | man -l -
  vm-service man --folder /usr/local/share/man/man1")]
pub(super) struct ManArguments {
    /// Write a page for each command into this folder, instead of the first page to standard output.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Writes the completion.
pub(super) fn complete(arguments: &CompletionArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let mut written = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "vm-service", &mut written);
    out.write_all(&written).context("writing the completion")
}

/// Writes the page, or all pages.
pub(super) fn man(arguments: &ManArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let mut command = Arguments::command();
    command.build();
    match &arguments.folder {
        None => clap_mangen::Man::new(command).render(out).context("writing the page"),
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            pages(&command, "vm-service", folder)
        }
    }
}

fn pages(command: &Command, name: &str, folder: &Path) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    let file = folder.join(format!("{name}.1"));
    std::fs::write(&file, page).with_context(|| format!("writing {}", file.display()))?;
    let shown = |inner: &&Command| !inner.is_hide_set() && inner.get_name() != "help";
    command.get_subcommands().filter(shown).try_for_each(|inner| pages(inner, &format!("{name}-{}", inner.get_name()), folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_and_every_command_is_served() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            complete(&CompletionArguments { shell }, &mut text).unwrap();
            assert!(String::from_utf8(text).unwrap().contains("settings"), "{shell}");
        }
        let folder = tempfile::tempdir().unwrap();
        let mut nothing = Vec::new();
        man(&ManArguments { folder: Some(folder.path().join("man1")) }, &mut nothing).unwrap();
        for page in ["vm-service", "vm-service-settings-set", "vm-service-vms-ssh", "vm-service-audit-verify", "vm-service-why"] {
            let text = std::fs::read_to_string(folder.path().join(format!("man1/{page}.1"))).unwrap();
            assert!(text.starts_with(".ie") && text.contains(".SH"), "{page}: {text}");
        }
        man(&ManArguments { folder: None }, &mut nothing).unwrap();
        assert!(String::from_utf8(nothing).unwrap().contains("vm\\-service"));
    }
}
