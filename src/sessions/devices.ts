import Bowser from 'bowser'

/** A program as people would name it, by its User-Agent: "Firefox on Linux", or the name that a program gives itself. */
export function describeDevice(userAgent: string): string {
  if (userAgent === '') return 'Unknown'
  const { browser, os } = Bowser.parse(userAgent)
  const [, product = 'Unknown'] = /^([^/\s]+)/.exec(userAgent) ?? []
  return [browser.name || product, os.name].filter(Boolean).join(' on ')
}
