//! Subcommands that are orders to a running daemon: each a request to its control socket.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use netguard::{control, datapath::PinDirectory, instance::Instance};
use serde_json::Value;

use super::{loaded, print};

#[derive(Args)]
pub(super) struct SayArgs {
    /// The slot
    slot: String,
    /// A name, which covers all below it, or a prefix: example.com, "203.0.113.0/24 tcp/443"
    what: String,
    /// For how long, as in 10m [default: for good]
    #[arg(long = "for", value_name = "TIME")]
    time: Option<humantime::Duration>,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

#[derive(Subcommand)]
pub(super) enum SlotCommand {
    /// Every slot, and what was ordered about it
    List {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a slot; it is remembered across restarts
    Add {
        /// A file with the keys of one [[slot]] entry, in TOML or JSON; - for standard input
        file: PathBuf,
    },
    /// Remove a slot that was made so
    Remove {
        /// Its name
        slot: String,
    },
}

/// The instance whose daemon is meant. Pins are root's; whoever else may give orders sees a daemon's run directory.
pub(super) fn the_instance(named: Option<Instance>) -> anyhow::Result<Instance> {
    let is_loaded = |it: &Instance| it.may_have_a_daemon() || PinDirectory::of(it).has_pins();
    let all = || {
        let with_pins = PinDirectory::instances().into_iter();
        with_pins.chain(Instance::that_may_have_daemons()).collect::<BTreeSet<_>>()
    };
    loaded::the_instance(named, is_loaded, || all().into_iter().collect())
}

/// `netguard allow` and `netguard deny`
pub(super) fn say(said: &SayArgs, allow: bool) -> anyhow::Result<ExitCode> {
    let SayArgs { slot, what, time, instance } = said;
    let instance = the_instance(instance.clone())?;
    let time = time.map(Duration::from);
    let unpinned = wait_for(control::say(&instance, slot, what, allow, time))?;
    let verb = if allow { "allowed" } else { "denied" };
    let pins = match unpinned {
        0 => String::new(),
        1 => ": 1 pin removed".to_owned(),
        count => format!(": {count} pins removed"),
    };
    print(&format!("{what} is {verb} to {slot}{pins}"))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard forget`
pub(super) fn forget(
    slot: &str,
    what: &str,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    wait_for(control::forget(&the_instance(instance)?, slot, what))?;
    print(&format!("what was said of {what} to {slot} is forgotten"))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard suggest`
pub(super) fn suggest(slot: &str, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let suggestion = wait_for(control::suggest(&the_instance(instance)?, slot))?;
    print(suggestion["toml"].as_str().unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard lock` and `netguard unlock`
pub(super) fn lock(
    slot: &str,
    locked: bool,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    wait_for(control::lock(&the_instance(instance)?, slot, locked))?;
    print(&format!("{slot} is {}", if locked { "locked" } else { "unlocked" }))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard slot`
pub(super) fn slot(command: &SlotCommand, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    match command {
        SlotCommand::List { json } => {
            let slots = wait_for(control::slots(&instance))?;
            print(&if *json { slots.to_string() } else { table(&slots) })?;
        }
        SlotCommand::Add { file } => {
            let slot = wait_for(control::add_slot(&instance, &read_entry(file)?))?;
            print(&format!("slot {} is made, number {}", text(&slot["name"]), slot["id"]))?;
        }
        SlotCommand::Remove { slot } => {
            wait_for(control::remove_slot(&instance, slot))?;
            print(&format!("slot {slot} is removed"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys of a slot: what is no JSON is TOML.
fn read_entry(file: &Path) -> anyhow::Result<Value> {
    let mut entry = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut entry).context("standard input cannot be read")?;
    } else {
        entry = std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
    }
    if let Ok(entry @ Value::Object(_)) = serde_json::from_str(&entry) {
        return Ok(entry);
    }
    let entry: Value = toml::from_str(&entry)
        .with_context(|| format!("{} is neither TOML nor JSON", file.display()))?;
    match entry.get("slot").and_then(Value::as_array).map(Vec::as_slice) {
        None => Ok(entry),
        Some([one]) => Ok(one.clone()),
        Some(_) => anyhow::bail!("{} has several slots: make them one by one", file.display()),
    }
}

fn table(slots: &Value) -> String {
    let mut table =
        format!("{:<5} {:<16} {:<16} {:<18} {}\n", "id", "slot", "bridge", "subnet", "ordered");
    for slot in slots["slots"].as_array().into_iter().flatten() {
        let mut ordered = Vec::new();
        for (key, word) in [("locked", "locked"), ("made_at_run_time", "made at run time")] {
            if slot[key] == true {
                ordered.push(word.to_owned());
            }
        }
        for said in slot["said"].as_array().into_iter().flatten() {
            let verb = if said["allowed"] == true { "allow" } else { "deny" };
            let left = said["seconds_left"].as_u64().map_or_else(String::new, |left| {
                format!(" for {}", humantime::format_duration(Duration::from_secs(left)))
            });
            ordered.push(format!("{verb} {}{left}", text(&said["what"])));
        }
        let subnet = text(&slot["subnets"][0]["prefix"]);
        let (id, name, bridge) =
            (slot["id"].to_string(), text(&slot["name"]), text(&slot["bridge"]));
        let ordered = ordered.join(", ");
        table += format!("{id:<5} {name:<16} {bridge:<16} {subnet:<18} {ordered}").trim_end();
        table.push('\n');
    }
    table
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// `netguard reload`
pub(super) fn reload(confirm: Option<u64>, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    let time = confirm.map(Duration::from_secs);
    let changes = wait_for(control::reload(&instance, time))?;
    print(changes["text"].as_str().unwrap_or_default())?;
    if let Some(seconds) = confirm {
        print(&format!("in force for {seconds} s; keep it with `netguard confirm`"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `netguard confirm`
pub(super) fn confirm(instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    wait_for(control::confirm(&the_instance(instance)?))?;
    print("the latest reload stays in force")?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard diff`
pub(super) fn diff(json: bool, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let changes = wait_for(control::diff(&the_instance(instance)?))?;
    if json {
        print(&changes.to_string())?;
    } else {
        print(changes["text"].as_str().unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn wait_for<T>(
    answer: impl Future<Output = Result<T, control::Error>>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(answer)?)
}
