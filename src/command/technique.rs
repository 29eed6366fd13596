//! Techniques that a command line switches off.

use std::collections::BTreeMap;

use clap::Args;

use super::Failure;
use super::device::DeviceName;
use crate::cost::{Technique, Techniques};

/// Which techniques are switched off.
#[derive(Clone, Debug, Default, Args)]
pub struct TechniqueArgs {
    /// Do without a technique, to see what it saves; once for each, or all. On cuda:
    /// fused_residual, fused_add_norm, fused_swiglu, fused_rope, fused_attention, split_kv,
    /// fused_dequantize, quantized_rows, fused_quantize, fused_sampling, graphs, async_scheduling
    #[arg(long, value_name = "TECHNIQUE", value_parser = without)]
    pub without: Vec<Without>,
}

/// What is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// One technique.
    One(Technique),
    /// All of them.
    All,
}

/// What is switched off under that name.
fn without(word: &str) -> Result<Without, String> {
    if word == "all" {
        return Ok(Without::All);
    }
    let found = Technique::ALL.into_iter().find(|technique| technique.code() == word);
    found.map(Without::One).ok_or_else(|| {
        let known = Technique::ALL.map(Technique::code).join(", ");
        format!("expected all or one of {known}")
    })
}

impl TechniqueArgs {
    /// What stays on.
    ///
    /// # Errors
    /// [`Failure`] if the device has one form of each kernel only.
    pub(super) fn on(&self, device: DeviceName) -> Result<Techniques, Failure> {
        let on = self.without.iter().fold(Techniques::ALL, |on, without| match without {
            Without::One(technique) => on.without(*technique),
            Without::All => Techniques::NONE,
        });
        if device == DeviceName::Cpu && on != Techniques::ALL {
            let message = "set --without: expected a device that has unfused kernels, found cpu";
            return Err(Failure::new(message, Some("--device cuda has them")));
        }
        Ok(on)
    }
}

/// Every technique by its name, and whether it is on: what stands in `run.json`.
pub(super) fn switches(techniques: Techniques) -> BTreeMap<&'static str, bool> {
    Technique::ALL.into_iter().map(|one| (one.code(), techniques.has(one))).collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        techniques: TechniqueArgs,
    }

    fn on(words: &[&str], device: DeviceName) -> Result<Techniques, String> {
        let words = [&["gemba"], words].concat();
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.techniques.on(device).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_named_is_off_on_a_card() {
        let card = DeviceName::Cuda(0);
        assert_eq!(on(&[], card), Ok(Techniques::ALL));
        assert_eq!(on(&["--without", "all"], card), Ok(Techniques::NONE));
        let two = on(&["--without=fused_rope", "--without=split_kv"], card).unwrap();
        let named = [Technique::FusedRope, Technique::SplitKv];
        for technique in Technique::ALL {
            assert_eq!(two.has(technique), !named.contains(&technique));
            assert_eq!(switches(two)[technique.code()], two.has(technique));
        }
    }

    #[test]
    fn what_cannot_be_switched_off_is_refused() {
        let said = on(&["--without=tensor_cores"], DeviceName::Cuda(0)).unwrap_err();
        assert!(said.contains("expected all or one of fused_residual, "), "{said}");
        let said = on(&["--without=fused_rope"], DeviceName::Cpu).unwrap_err();
        assert!(said.contains("expected a device that has unfused kernels"), "{said}");
        assert_eq!(on(&[], DeviceName::Cpu), Ok(Techniques::ALL));
    }

    #[test]
    fn the_help_names_every_technique() {
        let help = Line::command().render_long_help().to_string();
        for technique in Technique::ALL {
            assert!(help.contains(technique.code()), "{help}");
        }
    }
}
