import * as echarts from 'echarts'
import type { Chart } from './report.ts'

const colours = ['#2f6f8f', '#a8592a']

/** @returns an SVG with a bar for each share */
export function drawChart({ title, groups, bars }: Chart): string {
  const height = 110 + 56 * bars.length
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: 900, height })
  chart.setOption({
    animation: false,
    color: colours,
    backgroundColor: '#fff',
    textStyle: { fontFamily: 'system-ui, sans-serif' },
    title: { text: title, left: 16, top: 12 },
    legend: { data: [...groups], right: 24, top: 14, itemGap: 24 },
    grid: { left: 32, right: 48, top: 60, bottom: 16, containLabel: true },
    xAxis: {
      type: 'value',
      min: 0,
      max: ({ max }: { max: number }) => Math.max(1, max),
      axisLabel: { formatter: (share: number) => `${Math.round(share * 100)} %` },
    },
    yAxis: { type: 'category', inverse: true, data: bars.map(({ name }) => name), axisTick: { show: false } },
    series: groups.map((group, at) => ({
      name: group,
      type: 'bar',
      barGap: '10%',
      data: bars.map(({ shares }) => shares[at]?.median),
      label: {
        show: true,
        position: 'insideLeft',
        color: '#fff',
        formatter: ({ value }: { value: number }) => value.toFixed(2),
      },
    })),
  } as echarts.EChartsOption)
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}
