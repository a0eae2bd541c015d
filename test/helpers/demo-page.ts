import type { Page } from 'playwright-core'

// What runs in the page is text: the page knows neither our imports nor our compiler, and these files have no DOM types.
export function waitForWords(page: Page, count: number): Promise<unknown> {
  return page.waitForFunction(`document.querySelector('#text').children.length === ${count}`)
}

export function waitForLog(page: Page, line: string): Promise<unknown> {
  return page.waitForFunction(`document.querySelector('#log').textContent.includes(${JSON.stringify(line)})`)
}
