//! How much memory the process may use.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// What the files of the control groups look like (cgroups(7)). In version 2 all controllers have one
/// hierarchy, and its line in `/proc/self/cgroup` names none.
const VERSIONS: [(&str, &str, &str); 2] = [
    ("", "/sys/fs/cgroup", "memory.max"),
    ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Returns the number of bytes that this process may use: what the machine has, or what the limits of the
/// process or of its control group allow, if that is less. It is `u64::MAX` if nothing of that is known.
pub fn allowed() -> u64 {
    let limits = [Resource::As, Resource::Data].into_iter().filter_map(|r| getrlimit(r).current);
    // Without /proc, the process may still be at the root of what is mounted, as in a container.
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or("0::/\n1:memory:/\n".into());
    let read = |path: &Path| fs::read_to_string(path).ok();
    limits.chain(group_limits(&groups, read)).fold(machine(), u64::min)
}

/// Returns the limits of a control group and of the groups above it. Inside of a container the path may be
/// that outside of it, and only the last of these files, which is the container's own, may exist.
fn group_limits(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for (name, mount, file) in VERSIONS {
            if controllers.split(',').any(|controller| controller == name) {
                let groups = Path::new(path.trim_start_matches('/')).ancestors();
                let texts =
                    groups.filter_map(|group| read(&Path::new(mount).join(group).join(file)));
                // "max" is no limit.
                limits.extend(texts.filter_map(|text| text.trim().parse::<u64>().ok()));
            }
        }
    }
    limits
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn machine() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn machine() -> u64 {
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(groups: &str, files: &[(&str, &str)]) -> Vec<u64> {
        group_limits(groups, |path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn limits_of_a_group_and_of_those_above_it_are_found() {
        let files = [
            ("/sys/fs/cgroup/system.slice/echod.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
        ];
        assert_eq!(limits("0::/system.slice/echod.service\n", &files), [1 << 30]);
        let old = [("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "67108864\n")];
        assert_eq!(limits("5:cpu,cpuacct:/\n4:memory:/docker/1\n0::/\n", &old), [64 << 20]);
    }

    #[test]
    fn in_a_container_the_limit_is_at_the_root_whatever_the_path_says() {
        let files = [("/sys/fs/cgroup/memory.max", "268435456\n")];
        assert_eq!(limits("0::/\n", &files), [256 << 20]);
        assert_eq!(limits("0::/../other\n", &files), [256 << 20]);
    }

    #[test]
    fn what_is_no_group_has_no_limit() {
        assert!(limits("", &[]).is_empty());
        assert!(limits("nonsense\n1:memory\n:::\n", &[]).is_empty());
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(allowed() > 1024 * 1024);
    }
}
