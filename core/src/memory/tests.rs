use super::*;
use crate::topology::{NodeId, memory_nodes};
use std::path::Path;

fn huge_pages_free(pages: u64) -> bool {
    super::limits::shortage(Path::new("/"), PageSize::M2, None, pages).is_none()
}

#[test]
fn plain_memory_comes_when_it_is_touched_and_prefault_brings_it_at_once() {
    let lazy = Memory::allocate("lazy", 64 * page_size()).unwrap();
    assert_eq!(lazy.pages().unwrap().resident, 0);
    lazy.write(5 * page_size(), b"x").unwrap();
    assert_eq!(lazy.pages().unwrap().resident, page_size());
    let ready = Memory::builder().name("ready").len(64 * page_size()).prefault(true).build().unwrap();
    let got = ready.pages().unwrap();
    assert_eq!((got.page, got.resident, got.huge), (page_size(), ready.len(), 0));
    assert_eq!(got.tried, []);
}

#[test]
fn populating_without_the_kernels_help_gives_the_same_pages() {
    let memory = Memory::allocate("old kernel", 64 * page_size()).unwrap();
    memory.write(page_size(), b"kept").unwrap();
    memory.populate_by_touch().unwrap();
    assert_eq!(memory.pages().unwrap().resident, memory.len());
    let mut back = [0; 4];
    memory.read(page_size(), &mut back).unwrap();
    assert_eq!(&back, b"kept");
}

#[test]
fn what_was_really_got_is_read_back_and_the_rest_explained() {
    let memory = Memory::builder().name("try").len(3 << 20).huge(Huge::Try).build().unwrap();
    assert_eq!(memory.len(), 4 << 20, "rounded up to huge pages, and said so");
    let got = memory.pages().unwrap();
    assert_eq!(got.resident, memory.len());
    assert!(memory.backing().cpu().as_ptr() as u64 % PageSize::M2.bytes() == 0, "aligned for huge pages");
    match got.tried.as_slice() {
        [] => assert_eq!((got.page, got.huge), (PageSize::M2.bytes(), memory.len())),
        [MemoryError::HugePages { .. } | MemoryError::NoSuchPages { .. }] => {
            assert_eq!((got.page, got.huge), (page_size(), memory.len()));
        }
        [_, MemoryError::Transparent { huge, len, .. }] => {
            assert_eq!((*huge, *len), (got.huge, memory.len()));
            assert!(got.huge < memory.len());
        }
        other => panic!("{other:?}"),
    }
    memory.write(memory.len() - 1, &[1]).unwrap();
}

#[test]
fn a_mapping_is_aligned_as_asked_also_where_the_kernel_would_not() {
    let memory = Memory::allocate("aligned", page_size()).unwrap();
    for _ in 0..4 {
        let map =
            super::map::Map::new(&memory.file, page_size() as usize, page_size() as usize, 64 << 20).unwrap();
        assert_eq!(map.base().as_ptr() as usize % (64 << 20), 0);
    }
}

#[test]
fn less_than_a_huge_page_stays_plain() {
    let memory = Memory::builder().name("small").len(8192).huge(Huge::Try).build().unwrap();
    assert_eq!(memory.len(), 8192);
    assert!(matches!(memory.pages().unwrap().tried.as_slice(), [MemoryError::Small { len: 8192, .. }]));
}

#[test]
fn required_huge_pages_are_had_or_the_error_says_what_to_write() {
    let built = Memory::builder().name("huge").len(1 << 45).huge(Huge::Require(PageSize::M2)).build();
    match built.unwrap_err() {
        MemoryError::HugePages { needed, free, write, file, .. } => {
            assert_eq!(needed, 1 << 24);
            assert!(free < needed && write >= needed - free);
            assert!(Path::new(&file).exists(), "{file}");
        }
        MemoryError::NoSuchPages { .. } => {}
        other => panic!("{other:?}"),
    }
    if !huge_pages_free(2) {
        return skip("no free 2 MiB pages here (nr_hugepages)");
    }
    let memory = Memory::builder().len((2 << 20) + 1).huge(Huge::Require(PageSize::M2)).build().unwrap();
    let got = memory.pages().unwrap();
    assert_eq!((memory.len(), got.page, got.huge), (4 << 20, 2 << 20, 4 << 20));
    assert!(memory.file.set_len(0).is_err(), "sealed");
}

#[test]
fn a_node_that_is_not_there_is_refused_by_name() {
    let error = Memory::builder().name("far").len(4096).node(NodeId(4000)).build().unwrap_err();
    let nodes = memory_nodes(Path::new("/"));
    assert!(nodes.contains(&NodeId(0)));
    assert_eq!(error, MemoryError::NoNode { wanted: NodeId(4000), nodes });
}

#[test]
fn memory_on_a_node_is_there_and_all_of_it() {
    for node in memory_nodes(Path::new("/")) {
        let memory = Memory::builder().name("near").len(3 << 20).node(node).build().unwrap();
        let got = memory.pages().unwrap();
        assert_eq!(got.resident, memory.len());
        if let Some(nodes) = got.nodes {
            assert_eq!(nodes.into_iter().collect::<Vec<_>>(), [(node, memory.len())]);
        }
    }
}

#[test]
fn a_node_without_room_is_refused_before_anything_is_taken() {
    let node = NodeId(0);
    let error = Memory::builder().node(node).room(1 << 45).unwrap_err();
    let MemoryError::NodeFull { needed, free, .. } = error else { panic!("{error:?}") };
    assert!(needed == 1 << 45 && free > 0 && free < needed);
    assert_eq!(Memory::builder().node(node).room(4096), Ok(()));
}

#[test]
fn pages_that_are_elsewhere_are_noticed() {
    let len = 16 * page_size();
    let memory = Memory::builder().name("verified").len(len).prefault(true).build().unwrap();
    if memory.pages().unwrap().nodes.is_some() {
        let wanted = NodeId(4000);
        assert_eq!(memory.verify(wanted), Err(MemoryError::Misplaced { wanted, elsewhere: len, len }));
    }
    let lazy = Memory::allocate("absent", len).unwrap();
    if lazy.pages().unwrap().nodes.is_some() {
        assert!(lazy.verify(NodeId(0)).is_err(), "a page that is not there is on no node");
    }
}

#[test]
fn locked_memory_is_locked_and_resident() {
    match Memory::builder().name("locked").len(16 * page_size()).lock(true).build() {
        Ok(memory) => {
            let got = memory.pages().unwrap();
            assert_eq!((got.locked, got.resident), (memory.len(), memory.len()));
        }
        Err(error) => assert!(matches!(error, MemoryError::Memlock { .. }), "{error:?}"),
    }
}

#[test]
fn a_child_does_not_inherit_it() {
    let memory = Memory::builder().name("parent's").len(2 << 20).huge(Huge::Try).build().unwrap();
    for memory in [Memory::allocate("parent's", 4096).unwrap(), memory] {
        assert!(memory.pages().unwrap().dont_fork);
    }
}

/// A line of its own, past the harness, which swallows what a passing test prints.
fn skip(reason: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nskipped: {reason}\n").as_bytes());
}
