//! The roofline: what each kernel reached under what the machine could, on logarithmic axes.
//!
//! Drawn by plotters, which knows colours and no style sheets. Each role of the drawing gets a
//! colour that means only "this role"; afterwards those become classes, and the page's style
//! says what they look like in light, in dark and on paper.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::decade;
use super::escape::shown;
use crate::report::{KernelRow, Roofline};

const WIDTH: u32 = 1180;
const HEIGHT: u32 = 440;
const TEXT_SIZE: f64 = 15.0;
/// A letter's width, near enough to keep names apart.
const LETTER_WIDTH: f64 = 6.6;
const NAME_HEIGHT: i32 = 13;

/// What a stroke or a text of the drawing is for: the last byte of its colour, and its class.
#[derive(Clone, Copy)]
enum Role {
    Mesh = 1,
    Frame = 2,
    Roof = 3,
    RoofName = 4,
    Memory = 5,
    Compute = 6,
    Name = 7,
    Leader = 8,
}

const CLASSES: [(Role, &str); 8] = [
    (Role::Mesh, "mesh"),
    (Role::Frame, "frame"),
    (Role::Roof, "roof"),
    (Role::RoofName, "roof-name"),
    (Role::Memory, "kernel-memory"),
    (Role::Compute, "kernel-compute"),
    (Role::Name, "kernel-name"),
    (Role::Leader, "leader"),
];

impl Role {
    const fn colour(self) -> RGBColor {
        RGBColor(1, 2, self as u8)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Fault<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// The drawing, and the names of kernels that a logarithmic axis has no place for.
pub(super) struct Drawing<'a> {
    pub(super) svg: String,
    pub(super) left_out: Vec<&'a str>,
}

/// Draws the roofs and the kernels under them; none where there is no roof or no kernel.
pub(super) fn draw<'a>(roofline: &Roofline, kernels: &'a [KernelRow]) -> Option<Drawing<'a>> {
    let (placed, left_out): (Vec<&KernelRow>, Vec<&KernelRow>) =
        kernels.iter().partition(|k| has_place(k.intensity) && has_place(k.ops_per_s));
    let mut roofs: Vec<(String, f64)> = roofline
        .ops_per_s
        .iter()
        .filter(|roof| has_place(roof.1) && has_place(roof.1 / roofline.read_bytes_per_s))
        .map(|(name, ops)| (shown(name), *ops))
        .collect();
    roofs.sort_by(|a, b| b.1.total_cmp(&a.1));
    if placed.is_empty() || roofs.is_empty() || !has_place(roofline.read_bytes_per_s) {
        return None;
    }
    let mut svg = String::new();
    let backend = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT));
    let area = backend.into_drawing_area();
    plot(&area, roofline.read_bytes_per_s, &roofs, &placed).ok()?;
    area.present().ok()?;
    drop(area);
    Some(Drawing {
        svg: styled(&svg),
        left_out: left_out.into_iter().map(|kernel| kernel.name.as_str()).collect(),
    })
}

/// Whether a figure can stand on an axis: zero has no logarithm, and no machine is beyond these.
fn has_place(figure: f64) -> bool {
    (1e-9..1e24).contains(&figure)
}

/// Colours to classes, and a size that follows the page.
fn styled(svg: &str) -> String {
    let mut svg = svg.replacen(
        &format!("width=\"{WIDTH}\" height=\"{HEIGHT}\" "),
        "role=\"img\" aria-labelledby=\"roofline-title roofline-description\" ",
        1,
    );
    // plotters escapes quotes in text, so a name cannot pass for one of these attributes.
    for (role, class) in CLASSES {
        let RGBColor(r, g, b) = role.colour();
        let colour = format!("#{r:02X}{g:02X}{b:02X}");
        for paint in ["fill", "stroke"] {
            svg = svg.replace(
                &format!("{paint}=\"{colour}\""),
                &format!("class=\"{class}\" {paint}=\"currentColor\""),
            );
        }
    }
    let font = format!("font-family=\"sans-serif\" font-size=\"{}\" ", TEXT_SIZE / 1.24);
    svg.replace(&font, "").replace("opacity=\"1\" ", "")
}

/// Whole decades around everything that is drawn.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    let (low, high) = (low.log10().floor(), (high * 1.4).log10().ceil());
    // A hair wider: rounding must not lose the outermost mark.
    10_f64.powf(low) * 0.999..10_f64.powf(high.max(low + 2.0)) * 1.001
}

fn plot<'a>(
    area: &Area<'a>,
    bytes_per_s: f64,
    roofs: &[(String, f64)],
    kernels: &[&KernelRow],
) -> Result<(), Fault<'a>> {
    let ridges = roofs.iter().map(|roof| roof.1 / bytes_per_s);
    let x = decades(ridges.chain(kernels.iter().map(|k| k.intensity)));
    let y = decades(roofs.iter().map(|r| r.1).chain(kernels.iter().map(|k| k.ops_per_s)));
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Role::Mesh.colour())
        .axis_style(Role::Frame.colour())
        .label_style(text(Role::Frame))
        .axis_desc_style(text(Role::Frame))
        .x_labels(9)
        .y_labels(9)
        .x_desc("operations per byte")
        .y_desc("operations per second")
        .x_label_formatter(&|x| decade(*x))
        .y_label_formatter(&|y| decade(*y))
        .draw()?;
    let highest = roofs[0].1;
    let slope_from = x.start.max(y.start / bytes_per_s);
    let slope = [slope_from, highest / bytes_per_s].map(|x| (x, x * bytes_per_s));
    chart.draw_series(LineSeries::new(slope, Role::Roof.colour().stroke_width(2)))?;
    for (_, ops) in roofs {
        let roof = [(ops / bytes_per_s, *ops), (x.end, *ops)];
        chart.draw_series(LineSeries::new(roof, Role::Roof.colour().stroke_width(2)))?;
    }
    let mut names = Names::within(&chart.plotting_area().get_pixel_range());
    let [foot, ridge] = slope.map(|place| chart.backend_coord(&place));
    names.keep_off(foot, ridge);
    for (_, ops) in roofs {
        let ends = [ops / bytes_per_s, x.end].map(|x| chart.backend_coord(&(x, *ops)));
        names.keep_off(ends[0], ends[1]);
    }
    for (name, ops) in roofs {
        let at = chart.backend_coord(&(x.end, *ops));
        names.write_roof(area, &format!("{name} {}op/s", with_prefix(*ops)), at)?;
    }
    names.write_slope(area, &format!("read {}B/s", with_prefix(bytes_per_s)), foot, ridge)?;
    let at: Vec<(i32, i32)> =
        kernels.iter().map(|k| chart.backend_coord(&(k.intensity, k.ops_per_s))).collect();
    for (kernel, at) in kernels.iter().zip(&at) {
        draw_point(area, kernel, *at)?;
        names.taken.push((at.0 - 6..at.0 + 6, at.1 - 6..at.1 + 6));
    }
    for (kernel, at) in kernels.iter().zip(&at) {
        names.write_beside(area, &shown(&kernel.name), *at)?;
    }
    Ok(())
}

/// Three figures of an amount and its prefix: `26.5 G`.
fn with_prefix(amount: f64) -> String {
    let figure = crate::unit::Scale::count(amount).show(amount);
    if figure.ends_with(|c: char| c.is_ascii_digit()) { format!("{figure} ") } else { figure }
}

/// A disc where memory bounds the kernel, a triangle where arithmetic does.
fn draw_point<'a>(area: &Area<'a>, kernel: &KernelRow, at: (i32, i32)) -> Result<(), Fault<'a>> {
    if kernel.bound == "compute" {
        area.draw(&TriangleMarker::new(at, 7, Role::Compute.colour().filled()))
    } else {
        area.draw(&Circle::new(at, 5, Role::Memory.colour().filled()))
    }
}

fn text(role: Role) -> TextStyle<'static> {
    ("sans-serif", TEXT_SIZE).into_font().color(&role.colour())
}

/// Where text stands already.
struct Names {
    across: Range<i32>,
    down: Range<i32>,
    taken: Vec<(Range<i32>, Range<i32>)>,
}

impl Names {
    fn within(pixels: &(Range<i32>, Range<i32>)) -> Self {
        Self { across: pixels.0.clone(), down: pixels.1.clone(), taken: Vec::new() }
    }

    fn width(name: &str) -> i32 {
        (name.chars().count() as f64 * LETTER_WIDTH).ceil() as i32
    }

    fn is_free(&self, across: &Range<i32>, down: &Range<i32>) -> bool {
        let inside = across.start >= self.across.start
            && across.end <= self.across.end
            && down.start >= self.down.start
            && down.end <= self.down.end;
        let meets = |a: &Range<i32>, b: &Range<i32>| a.start < b.end && b.start < a.end;
        inside && !self.taken.iter().any(|(x, y)| meets(x, across) && meets(y, down))
    }

    /// Reserves the pixels of a line.
    fn keep_off(&mut self, from: (i32, i32), to: (i32, i32)) {
        let pieces = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / 4).max(1);
        for piece in 0..=pieces {
            let along = |a: i32, b: i32| a + (b - a) * piece / pieces;
            let (x, y) = (along(from.0, to.0), along(from.1, to.1));
            self.taken.push((x - 2..x + 3, y - 2..y + 3));
        }
    }

    /// Above the right end of its roof, or below it where the next roof is too near.
    fn write_roof<'a>(
        &mut self,
        area: &Area<'a>,
        name: &str,
        end: (i32, i32),
    ) -> Result<(), Fault<'a>> {
        let across = end.0 - Self::width(name)..end.0;
        let row = |bottom: i32| bottom - NAME_HEIGHT..bottom;
        let (above, below) = (row(end.1 - 5), row(end.1 + NAME_HEIGHT + 5));
        let down = if self.is_free(&across, &above) { above } else { below };
        let style = text(Role::RoofName).pos(Pos::new(HPos::Right, VPos::Bottom));
        area.draw(&Text::new(name.to_owned(), (end.0, down.end), style))?;
        self.taken.push((across, down));
        Ok(())
    }

    /// Left of the middle of the slope, where no kernel can be.
    fn write_slope<'a>(
        &mut self,
        area: &Area<'a>,
        name: &str,
        foot: (i32, i32),
        ridge: (i32, i32),
    ) -> Result<(), Fault<'a>> {
        let end = (i32::midpoint(foot.0, ridge.0) - 10, i32::midpoint(foot.1, ridge.1) - 4);
        let from = (end.0 - Self::width(name)).max(self.across.start + 4);
        let style = text(Role::RoofName).pos(Pos::new(HPos::Left, VPos::Bottom));
        area.draw(&Text::new(name.to_owned(), (from, end.1), style))?;
        self.taken.push((from..end.0, end.1 - NAME_HEIGHT..end.1));
        Ok(())
    }

    /// Beside its point: right, left, above, below, then ever further with a line to it.
    fn write_beside<'a>(
        &mut self,
        area: &Area<'a>,
        name: &str,
        point: (i32, i32),
    ) -> Result<(), Fault<'a>> {
        let width = Self::width(name);
        let half = NAME_HEIGHT / 2;
        let (x, y) = point;
        let mut places = vec![
            (x + 9, y - half, false),
            (x - 9 - width, y - half, false),
            (x - width / 2, y - 10 - NAME_HEIGHT, false),
            (x - width / 2, y + 10, false),
        ];
        for distance in [18, 32, 46, 60, 80, 100] {
            places.push((x + 16, y + distance - half, true));
            places.push((x + 16, y - distance - half, true));
            places.push((x - 16 - width, y + distance - half, true));
            places.push((x - 16 - width, y - distance - half, true));
        }
        let room =
            |place: &(i32, i32, bool)| (place.0..place.0 + width, place.1..place.1 + NAME_HEIGHT);
        let Some(place) = places.into_iter().find(|place| {
            let (across, down) = room(place);
            self.is_free(&across, &down)
        }) else {
            // No room: the name stands in the table, and writing it over others helps nobody.
            return Ok(());
        };
        let (across, down) = room(&place);
        if place.2 {
            let end = if across.start > x { across.start - 3 } else { across.end + 3 };
            let line = vec![point, (end, down.start + half)];
            area.draw(&PathElement::new(line, Role::Leader.colour()))?;
        }
        let style = text(Role::Name).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.to_owned(), (across.start, down.start + half), style))?;
        self.taken.push((across, down));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, intensity: f64, ops_per_s: f64, bound: &'static str) -> KernelRow {
        KernelRow { name: name.to_owned(), intensity, ops_per_s, bound, ..KernelRow::default() }
    }

    fn roofs() -> Roofline {
        Roofline { read_bytes_per_s: 2e10, ops_per_s: vec![("q8_0".to_owned(), 3e11)] }
    }

    #[test]
    fn shapes_tell_what_bounds_a_kernel() {
        let kernels =
            [kernel("down", 4.0, 4e10, "memory"), kernel("prefill", 60.0, 1e11, "compute")];
        let svg = draw(&roofs(), &kernels).unwrap().svg;
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("class=\"kernel-memory\""));
        assert_eq!(svg.matches("<polygon").count(), 1);
        assert!(svg.contains("class=\"kernel-compute\""));
        for text in ["down", "prefill", "q8_0 300 Gop/s", "read 20.0 GB/s"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} in {svg}");
        }
    }

    #[test]
    fn no_colour_is_left() {
        let svg = draw(&roofs(), &[kernel("down", 4.0, 4e10, "memory")]).unwrap().svg;
        assert!(!svg.contains("=\"#"), "{svg}");
        assert!(!svg.contains("font-family"), "{svg}");
        assert!(svg.contains("role=\"img\""), "{svg}");
    }

    #[test]
    fn what_has_no_place_on_the_axes_is_named() {
        let kernels = [kernel("down", 4.0, 4e10, "memory"), kernel("embed", 0.0, 0.0, "memory")];
        assert_eq!(draw(&roofs(), &kernels).unwrap().left_out, ["embed"]);
    }

    #[test]
    fn names_do_not_lie_on_each_other() {
        let mut names = Names { across: 0..400, down: 0..400, taken: Vec::new() };
        names.keep_off((0, 100), (400, 100));
        assert!(!names.is_free(&(10..60), &(95..108)));
        assert!(names.is_free(&(10..60), &(110..123)));
        assert!(!names.is_free(&(380..430), &(110..123)), "outside the chart");
    }

    #[test]
    fn without_roof_or_kernel_nothing_is_drawn() {
        assert!(draw(&roofs(), &[]).is_none());
        assert!(draw(&Roofline::default(), &[kernel("down", 4.0, 4e10, "memory")]).is_none());
        let endless = [kernel("down", f64::INFINITY, f64::NAN, "memory")];
        assert!(draw(&roofs(), &endless).is_none());
        assert!(draw(&roofs(), &[kernel("down", 2e303, 1e172, "memory")]).is_none());
    }
}
