//! `netguard drops`: what the daemon remembers of dropped packets, and what comes.

use std::{io::Write as _, process::ExitCode};

use netguard::{control, journal::Format};

use super::{DropsArgs, loaded::the_instance, orders::wait_for};

pub(super) fn drops(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    let instance = the_instance(args.instance.clone())?;
    let format = match args.output {
        Format::Text => "text",
        Format::Json => "json",
    };
    let mut query = format!("last={}&follow={}&format={format}", args.last, args.follow);
    for (key, value) in [("slot", &args.slot), ("reason", &args.reason), ("runtime", &args.runtime)]
    {
        if let Some(value) = value {
            query += &format!("&{key}={}", control::encode(value));
        }
    }
    let mut out = std::io::stdout().lock();
    // A reader that has gone has read enough.
    let print = |lines: &[u8]| out.write_all(lines).and_then(|()| out.flush());
    wait_for(control::drops(&instance, &query, print))?;
    Ok(ExitCode::SUCCESS)
}
