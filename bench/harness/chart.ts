import type { TurnResult } from './contest.ts'
import type { ContestantName } from './contestant.ts'
import { spread } from './statistics.ts'
import { ratio, values } from './verdict.ts'

const COLORS: Partial<Record<ContestantName, string>> = {
  ours: '#0a7f5a',
  'res.write': '#555555',
  socket: '#9aa5b1',
  'socket-batch': '#c3cbd3'
}
const PEER_COLOR = '#d98c4a'
const LABEL_WIDTH = 190
const BAR_WIDTH = 420
const ROW = 18
const TITLE = 34

/** Ratios of a workload as a picture: one group per turn, one bar per contestant, a line where the goal is. */
export function chart(title: string, results: readonly TurnResult[]): string {
  const parts: string[] = []
  let y = TITLE + 10
  for (const result of results) {
    const base = baseOf(result)
    const bars = [...result.samples.keys()].flatMap((name) => {
      const own = base === undefined ? spread(values(result, name, result.turn.metric.key)) : ratio(result, name, base)
      return own === undefined || Number.isNaN(own.median) ? [] : [{ name, ...own }]
    })
    if (bars.length === 0) continue
    const unit = base === undefined ? result.turn.metric.unit : `${result.turn.metric.key}, ${base} = 1`
    const widest = Math.max(...bars.map(({ median }) => median))
    parts.push(text(0, y + 12, `${result.name.split('/')[1]}  (${unit})`, 'font-weight="600"'))
    y += ROW + 4
    for (const { name, median, min, max } of bars) {
      const width = Math.max(1, (BAR_WIDTH * median) / widest)
      const color = COLORS[name] ?? PEER_COLOR
      const range = `${median.toFixed(2)}  (${min.toFixed(2)}–${max.toFixed(2)})`
      parts.push(text(LABEL_WIDTH - 8, y + 12, name, 'text-anchor="end"'))
      parts.push(
        `<rect x="${LABEL_WIDTH}" y="${y + 2}" width="${width.toFixed(1)}" height="${ROW - 5}" fill="${color}"/>`
      )
      parts.push(text(LABEL_WIDTH + width + 6, y + 12, range))
      y += ROW
    }
    const goal = result.turn.goals?.find((it) => it.metric === undefined && it.against === base)
    if (goal?.atMost !== undefined) {
      const x = (LABEL_WIDTH + (BAR_WIDTH * goal.atMost) / widest).toFixed(1)
      const top = y - ROW * bars.length
      parts.push(`<line x1="${x}" x2="${x}" y1="${top}" y2="${y}" stroke="#b00020" stroke-dasharray="3 3"/>`)
      parts.push(text(LABEL_WIDTH, y + 11, `goal ≤ ${goal.atMost}`, 'fill="#b00020"'))
      y += ROW
    }
    y += 12
  }
  const width = LABEL_WIDTH + BAR_WIDTH + 170
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}"`,
    ' font-family="system-ui, sans-serif" font-size="12" fill="#1c2126">',
    `<rect width="${width}" height="${y}" fill="#ffffff"/>`,
    '<g transform="translate(12 0)">',
    text(0, 22, title, 'font-size="16" font-weight="700"'),
    ...parts,
    '</g></svg>\n'
  ].join('\n')
}

function baseOf(result: TurnResult): ContestantName | undefined {
  return [result.turn.base, 'res.write' as const, 'reply.send' as const].find(
    (name) => name !== undefined && (result.samples.get(name)?.length ?? 0) > 0
  )
}

function text(x: number, y: number, content: string, attributes = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${x}" y="${y}" ${attributes}>${escaped}</text>`
}
