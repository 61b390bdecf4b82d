//! What a process's control groups let it take, as Linux tells it in files.

use std::path::{Path, PathBuf};

use super::kib_of;

/// What one version of control groups calls its files.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with what is given back when it is wanted.
    given_back: &'static str,
}

const VERSION_2: Names = Names {
    limit: "memory.max",
    used: "memory.current",
    given_back: "inactive_file ",
};
const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    given_back: "total_inactive_file ",
};

/// The bytes that the process, which has `resident` of them, may come to have in the
/// tightest of its control groups: their limits less what others in them have. None
/// where nothing limits it. `groups` is `/proc/self/cgroup`'s text, `root` where
/// the groups' folders are.
pub(super) fn limit(groups: &str, root: &Path, resident: u64) -> Option<u64> {
    let folders = groups.lines().flat_map(|line| folders(line, root));
    let limits = folders.filter_map(|(folder, names)| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| -> Option<u64> { read(name)?.trim().parse().ok() };
        let limit = number(names.limit)?;
        let stat = read("memory.stat").unwrap_or_default();
        let given_back = stat
            .lines()
            .find_map(|line| line.strip_prefix(names.given_back)?.trim().parse().ok())
            .unwrap_or(0);
        let used = number(names.used).unwrap_or(resident);
        let others = used.saturating_sub(given_back).saturating_sub(resident);
        Some(limit.saturating_sub(others))
    });
    limits.min()
}

/// The folders of a line's group and of all those around it.
fn folders(line: &str, root: &Path) -> Vec<(PathBuf, &'static Names)> {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (root, names) = match kinds {
        "" => (root.to_owned(), &VERSION_2),
        _ if kinds.split(',').any(|kind| kind == "memory") => (root.join("memory"), &VERSION_1),
        _ => return Vec::new(),
    };
    // a container may see its own group as the root: then only that is there
    let path = Path::new(path.trim_start_matches('/'));
    let around = path.ancestors().map(|part| (root.join(part), names));
    around.collect()
}

/// What the machine has left for a process with `resident` bytes.
pub(super) fn of_machine(resident: u64) -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(kib_of(&machine, "MemAvailable:")? + resident)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn group(root: &Path, path: &str, files: &[(&str, String)]) {
        let folder = root.join(path);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts_less_what_others_have_in_it() {
        let root = tempfile::tempdir().unwrap();
        let of = |groups: &str| limit(groups, root.path(), 100 * MIB);
        assert_eq!(of("0::/a.slice/b.service\n"), None, "no such files");
        group(
            root.path(),
            "a.slice",
            &[
                ("memory.max", format!("{}\n", 1000 * MIB)),
                ("memory.current", format!("{}\n", 700 * MIB)),
                (
                    "memory.stat",
                    format!("anon 1\ninactive_file {}\n", 200 * MIB),
                ),
            ],
        );
        group(
            root.path(),
            "a.slice/b.service",
            &[("memory.max", "max\n".to_owned())],
        );
        // 700 - 200 - 100 are others'
        assert_eq!(of("0::/a.slice/b.service\n"), Some(600 * MIB));
        group(
            root.path(),
            "a.slice/b.service",
            &[
                ("memory.max", format!("{}\n", 500 * MIB)),
                ("memory.current", format!("{}\n", 120 * MIB)),
            ],
        );
        assert_eq!(of("0::/a.slice/b.service\n"), Some(480 * MIB));
    }

    #[test]
    fn the_older_version_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        group(
            root.path(),
            "memory/docker/x",
            &[
                ("memory.limit_in_bytes", format!("{}\n", 300 * MIB)),
                ("memory.usage_in_bytes", format!("{}\n", 150 * MIB)),
            ],
        );
        let groups = "5:cpu:/docker/x\n4:hugetlb,memory:/docker/x\nnonsense\n";
        assert_eq!(limit(groups, root.path(), 100 * MIB), Some(250 * MIB));
    }
}
