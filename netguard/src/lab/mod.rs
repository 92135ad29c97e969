//! The lab: a whole hypervisor, its guests and an internet in network namespaces, so that netguard
//! can be tried and tested without one packet leaving the machine or touching its interfaces.
//!
//! The lab is built from a configuration as any host would be: slots, bridges, ports and addresses
//! come from the same file that the daemon reads.

mod guests;
mod internet;
mod namespace;
mod process;
mod topology;
mod wire;
mod zone;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    config::{Config, Problems},
    datapath::{self, PinDirectory, Tc},
    instance::{BadName, Instance},
    journal::Format,
};

pub use internet::serve;
pub use namespace::enter;

/// The embedded default configuration, and the lab's.
pub const CONFIG: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/examples/microvms.toml"));

/// Where a lab that is up remembers its configuration's file, in its run directory.
const CONFIG_PATH: &str = "config-path";

/// How the file ends that tells a guest who answers its names.
const RESOLV_CONF: &str = ".resolv.conf";
/// The lab's name if the user gives none: the prefix of its namespaces.
pub const DEFAULT_NAME: &str = "ng";

/// What a slot's port is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PortKind {
    /// One end of a veth pair, as containers have it.
    #[default]
    Veth,
    /// A TAP device with offloads, as virtual machines have it.
    Tap,
    /// The same, left to virtual machines of your own: QEMU's -netdev tap,ifname=vm-slot1
    Qemu,
}

impl PortKind {
    fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::Qemu => "qemu",
        }
    }
}

/// Why the lab could not be built, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces need root.
    #[error("not permitted to make network namespaces; run the lab as root")]
    Permission,
    /// There is no lab of that name.
    #[error("no lab {0:?} is up; start it: netguard lab --name {0} up")]
    NotUp(String),
    /// The lab's name would not do.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Somebody else's namespace has the name of one of the lab's.
    #[error("there is a network namespace {0}, and it is not this lab's; choose another --name")]
    NotOurs(String),
    /// There is no such host in the lab.
    #[error("no slot or host {name:?} in the lab; there are {known}")]
    NoHost {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A program that the lab calls failed.
    #[error("{program} failed: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its own words.
        message: String,
    },
    /// A background process did not come up.
    #[error("the lab's {what} did not start; its log ends with:\n{tail}")]
    NotReady {
        /// Which.
        what: &'static str,
        /// The log's last lines.
        tail: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The lab's configuration is wrong.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The pins cannot be removed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}

impl Error {
    fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    /// The same for what only root may do.
    fn privileged(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::System { action, source },
        }
    }
}

/// One lab, up or not. Its run directory says whose its namespaces are: it is made before them and
/// removed after them.
pub struct Lab {
    name: String,
    instance: Instance,
    config: Config,
    /// Where the configuration was read, if it is not the default one.
    file: Option<PathBuf>,
}

impl Lab {
    /// The lab of that name; one that is up is of the configuration that it was built from.
    ///
    /// # Errors
    ///
    /// The name would not do.
    pub fn new(name: &str) -> Result<Self, Error> {
        let instance = Instance::of_lab(name)?;
        match fs::read_to_string(instance.run_directory().join(CONFIG_PATH)) {
            Ok(path) => Self::of_file(name, Path::new(&path)),
            Err(_) => Self::of_default(name),
        }
    }

    /// The lab of that name, to be built from the default configuration, whatever an earlier one was built
    /// from.
    ///
    /// # Errors
    ///
    /// The name would not do.
    pub fn of_default(name: &str) -> Result<Self, Error> {
        let instance = Instance::of_lab(name)?;
        let config = Config::parse(CONFIG, Path::new("the lab's configuration"))?;
        Ok(Self { name: name.to_owned(), instance, config, file: None })
    }

    /// The lab of that name, to be built from another configuration than the default.
    ///
    /// # Errors
    ///
    /// The name would not do, or the file is wrong.
    pub fn of_file(name: &str, file: &Path) -> Result<Self, Error> {
        let instance = Instance::of_lab(name)?;
        let config = Config::read(file)?;
        let file = file.canonicalize().map_err(Error::system("find the configuration"))?;
        Ok(Self { name: name.to_owned(), instance, config, file: Some(file) })
    }

    /// The instance that guards the lab.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The configuration that the lab is built from.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Builds the lab, over whatever an earlier one left, and starts its internet. Nothing is
    /// guarded yet.
    ///
    /// # Errors
    ///
    /// No permission, or a step failed; what was built until then is removed.
    pub fn build(&self, ports: PortKind) -> Result<(), Error> {
        namespace::may_make()?;
        let _lock = lock(&self.instance)?;
        remove(&self.name, &self.instance)?;
        if let Some(foreign) = self.namespaces().first() {
            return Err(Error::NotOurs(foreign.clone()));
        }
        let built = self.build_steps(ports);
        if built.is_err() {
            // The first error is the one to tell.
            let _ = remove(&self.name, &self.instance);
        }
        built
    }

    fn build_steps(&self, ports: PortKind) -> Result<(), Error> {
        let directory = self.directory();
        fs::create_dir_all(&directory)
            .map_err(Error::system(format!("create {}", directory.display())))?;
        if let Some(file) = &self.file {
            fs::write(directory.join(CONFIG_PATH), file.as_os_str().as_encoded_bytes())
                .map_err(Error::system("remember the configuration"))?;
        }
        topology::build(&self.name, &self.config.policy, ports)?;
        for guest in guests::of(&self.config.policy.slots) {
            let path = self.resolv_conf(&guest.host);
            let gateways = guest.slot.subnets.iter().map(|subnet| subnet.gateway);
            let lines: String = gateways.map(|gateway| format!("nameserver {gateway}\n")).collect();
            fs::write(&path, lines).map_err(Error::system(format!("write {}", path.display())))?;
        }
        fs::write(directory.join("ports"), ports.name())
            .map_err(Error::system("write the kind of ports"))?;
        let arguments = ["lab", "--name", &self.name, "serve"];
        process::start("internet", &arguments, &self.log("internet"))?;
        Ok(())
    }

    /// Starts a daemon in the background that guards the lab, with TC programs on interfaces as the kernel does it
    /// best, or as `tc` says.
    ///
    /// # Errors
    ///
    /// It does not come up; its log's last lines are in the error.
    pub fn guard(&self, format: Format, tc: Option<Tc>) -> Result<(), Error> {
        let format = match format {
            Format::Text => "text",
            Format::Json => "json",
        };
        let mut arguments = vec!["run", "--lab", &self.name, "--log", format];
        if let Some(tc) = tc {
            arguments.extend(["--tc", tc.name()]);
        }
        process::start("daemon", &arguments, &self.log("daemon"))
    }

    /// Replaces this process by a command on a host of the lab: a slot, `hv`, `net` or `mgmt`.
    ///
    /// # Errors
    ///
    /// There is no such host, or the command cannot be started.
    pub fn exec(
        &self,
        host: &str,
        command: &[OsString],
    ) -> Result<std::convert::Infallible, Error> {
        use std::os::unix::process::CommandExt as _;

        self.must_be_up()?;
        let namespace = self.namespace(host);
        if !self.namespaces().contains(&namespace) {
            let known = self.hosts().collect::<Vec<_>>().join(", ");
            return Err(Error::NoHost { name: host.to_owned(), known });
        }
        let Some((program, arguments)) = command.split_first() else {
            return Err(Error::Program { program: "exec", message: "no command".to_owned() });
        };
        enter(&namespace)?;
        namespace::use_resolv_conf(&self.resolv_conf(host))?;
        let error = Command::new(program).args(arguments).exec();
        Err(Error::system(format!("run {}", program.display()))(error))
    }

    /// The lab's hosts and logs, for people.
    ///
    /// # Errors
    ///
    /// There is no such lab.
    pub fn describe(&self) -> Result<String, Error> {
        self.must_be_up()?;
        let ports = fs::read_to_string(self.directory().join("ports")).unwrap_or_default();
        let is_served = process::any_in(&self.namespace("net"));
        let internet = if is_served { "" } else { "\nits internet has ended: netguard lab up" };
        Ok(format!(
            "lab {:?}, {ports} ports, hosts {}\nlogs: {}\n      {}{internet}",
            self.name,
            self.hosts().collect::<Vec<_>>().join(" "),
            self.log("daemon").display(),
            self.log("internet").display(),
        ))
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// Where a background process of the lab logs: `daemon` or `internet`.
    #[must_use]
    pub fn log(&self, of: &str) -> PathBuf {
        self.directory().join(format!("{of}.log"))
    }

    /// The names of the lab's hosts.
    fn hosts(&self) -> impl Iterator<Item = String> {
        let guests = guests::of(&self.config.policy.slots).map(|guest| guest.host);
        topology::HOSTS.into_iter().map(str::to_owned).chain(guests)
    }

    /// The lab's namespaces that exist.
    fn namespaces(&self) -> Vec<String> {
        let all = self.hosts().map(|host| self.namespace(&host));
        all.filter(|name| namespace::path(name).exists()).collect()
    }

    fn must_be_up(&self) -> Result<(), Error> {
        if self.directory().exists() { Ok(()) } else { Err(Error::NotUp(self.name.clone())) }
    }

    fn directory(&self) -> PathBuf {
        self.instance.run_directory()
    }

    fn resolv_conf(&self, host: &str) -> PathBuf {
        self.directory().join(format!("{host}{RESOLV_CONF}"))
    }

    /// The ports' kind, as the lab was built.
    fn built_ports(&self) -> PortKind {
        match fs::read_to_string(self.directory().join("ports")).as_deref() {
            Ok("tap") => PortKind::Tap,
            Ok("qemu") => PortKind::Qemu,
            _ => PortKind::Veth,
        }
    }
}

/// Removes the lab of that name and everything that it left: processes, pins, namespaces, files, whatever has become of the
/// configuration that it was built from. Fine if there is nothing.
///
/// # Errors
///
/// The name would not do, no permission, or something cannot be removed: what is left can be tried again.
pub fn down(name: &str) -> Result<(), Error> {
    let instance = Instance::of_lab(name)?;
    if !instance.run_directory().exists() {
        return Ok(());
    }
    let _lock = lock(&instance)?;
    remove(name, &instance)
}

/// One at a time: two that build or remove labs wait for each other.
fn lock(instance: &Instance) -> Result<Flock<File>, Error> {
    let directory = instance.run_directory();
    let labs = directory.parent().unwrap_or(&directory);
    let failed = || Error::system(format!("lock {}", labs.display()));
    fs::create_dir_all(labs).map_err(failed())?;
    let file = File::open(labs).map_err(failed())?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| failed()(io::Error::from(error)))
}

fn remove(name: &str, instance: &Instance) -> Result<(), Error> {
    let directory = instance.run_directory();
    if !directory.exists() {
        return Ok(());
    }
    let hosts = built_hosts(&directory).into_iter().map(|host| format!("{name}-{host}"));
    let namespaces: Vec<_> = hosts.filter(|name| namespace::path(name).exists()).collect();
    process::end_all_in(&namespaces)?;
    PinDirectory::of(instance).remove()?;
    for namespace in &namespaces {
        namespace::remove(namespace)?;
    }
    let removed = fs::remove_dir_all(&directory);
    removed.map_err(Error::system(format!("remove {}", directory.display())))
}

/// The hosts that a lab was built with: each guest has left a file.
fn built_hosts(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let guests = files
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(RESOLV_CONF)?.to_owned()));
    topology::HOSTS.into_iter().map(str::to_owned).chain(guests).collect()
}
