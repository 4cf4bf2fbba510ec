// What Grafana's own types allow a dashboard file to say. A test compiles the dashboard against this.
import type { Dashboard, Panel, RowPanel, VariableModel } from '@grafana/schema';
import type { Options as LinesOptions, FieldConfig as LinesFields } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Options as NumberOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';

// In a file the members of an enum are their values.
type InFile<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends Array<infer E> ? Array<InFile<E>> : T extends object ? { [K in keyof T]: InFile<T[K]> } : T;

type Query = { refId: string; expr: string; legendFormat: string; datasource: { type: string; uid: string }; range: boolean };
type Of<Kind extends string, Options, Fields> =
  Omit<InFile<Panel<{}, Fields>>, 'type' | 'options' | 'targets'> & { type: Kind; options: InFile<Options>; targets: Query[] };
type AnyPanel = Of<'timeseries', LinesOptions, LinesFields> | Of<'stat', NumberOptions, {}> | InFile<RowPanel>;
type Written = Omit<InFile<Dashboard>, 'panels' | 'templating'> & { panels: AnyPanel[]; templating: { list: InFile<VariableModel>[] } };
