//! A BAR of 16 MiB into another device's address space: the system calls one by one, and the library's calls around them.

use super::{Effort, Failure, Lent, Row, first, micros};
use std::time::Instant;
use tidegate_core::{Cause, Deadline, Fabric};
use tidegate_p2p::backend::{Backend, Function, Rights, Space, Trust};
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::{Domain, Want};

const LEN: u64 = 16 << 20;
/// ivshmem's memory.
const BAR: u8 = 2;

/// Figures of one name each, in order.
#[derive(Default)]
struct Phases(Vec<(&'static str, Vec<f64>)>);

impl Phases {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let result = work();
        let took = micros(since.elapsed());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(took),
            None => self.0.push((name, vec![took])),
        }
        result
    }

    fn rows(self) -> impl Iterator<Item = Row> {
        let row = |(name, figures)| Row::of(format!("import of 16 MiB: {name}"), "us", figures);
        self.0.into_iter().map(row)
    }
}

pub(super) fn measure(effort: Effort) -> Result<Vec<Row>, Failure> {
    let (exporter, importer) = (first(0x1af4, 0x1110)?, first(0x1234, 0x11e8)?);
    let _lent = Lent::take(&[exporter, importer])?;
    let mut phases = Phases::default();
    {
        let vfio = Vfio::new()?;
        let (from, to) = (vfio.open(exporter)?, vfio.open(importer)?);
        let space = vfio.space()?;
        to.attach(&space)?;
        let fits = |range: &std::ops::RangeInclusive<u64>| {
            let start = (*range.start()).max(1 << 32).next_multiple_of(LEN);
            (start.checked_add(LEN)? <= *range.end()).then_some(start)
        };
        let iova = space.usable()?.iter().find_map(fits).ok_or("no room above 4 GiB")?;
        for _ in 0..effort.imports {
            let buffer = phases.time("export (VFIO_DEVICE_FEATURE_DMA_BUF)", || from.export(BAR, 0..LEN))?;
            phases.time("IOMMU_IOAS_MAP_FILE", || {
                space.map_dmabuf(iova, &buffer, LEN, Rights::ReadWrite, Trust::Shared)
            })?;
            phases.time("IOMMU_IOAS_UNMAP", || space.unmap(iova, LEN))?;
            phases.time("close of the dma-buf", || drop(buffer));
        }
    }
    let fabric = Fabric::builder().build()?;
    let domain = Domain::new(&fabric, Vfio::new()?)?;
    let (from, _to) = (domain.attach(exporter)?, domain.attach(importer)?);
    for _ in 0..effort.imports {
        let export = phases.time("Device::export", || from.export(BAR, 0..LEN))?;
        let import = phases.time("Domain::import", || domain.import(&export, Want::default()))?;
        let by = Deadline::default();
        let report =
            phases.time("Region::revoke, to its end", || import.region().revoke(Cause::User, by).wait())?;
        if !report.is_clean() {
            return Err(format!("a revoke with nothing in flight: {report:?}").into());
        }
        let import = phases.time("Import::recover", || import.recover()).map_err(|error| error.why)?;
        drop(import);
    }
    Ok(phases.rows().collect())
}
